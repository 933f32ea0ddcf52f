"""The report of `benchmark`, for a terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from keras_vit.export.verification.report import in_bytes, in_percent, or_dash, three_digits

NOTE = (
    "x first: time by that of the first model at as many threads. memory: by how much loading and running\n"
    "the model raised the peak of its process; the runtime itself (LiteRT, TensorFlow ...) is not in it."
)
OPERATORS_NOTE = (
    "LiteRT's profiler cuts the time of every operator to whole microseconds: small ones count too little.\n"
    "XNNPACK names what it runs, after its own fusing and converting. One that it cannot name is an Invalid\n"
    "Unary Op (GELU between int8 operators)."
)


def pages(report: dict) -> list:
    """The report for a terminal: a table of the models, one for the operators of each file, and notes."""
    shown = [_models_table(report), Text(NOTE)]
    errors = {(row["name"], row["error"]): None for row in report["models"] if row["error"]}
    shown += [Text(f"{name}: {error}", "red") for name, error in errors]
    for row in report["models"]:
        name = f"{row['name']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        if row["profile_error"]:
            shown += [Text(f"\n{name}: no times of operators. {row['profile_error']}", "red")]
        if row["profile"]:
            spent = sum(operator["ms"] for operator in row["profile"])
            whole = row["profile_run_ms"]
            shown += [Text(), _operators_table(name, row["profile"])]
            shown += [Text(f"{spent:.3g} ms in operators; a whole run without the profiler {whole:.3g} ms.")]
    if any(row["profile"] for row in report["models"]):
        shown += [Text(OPERATORS_NOTE)]
    return shown


def _models_table(report):
    table = _table(f"{report['machine']['cpu']}, {report['machine']['cores']} cores", "model")
    for heading in ("size", "threads", "p50 ms", "p95 ms", "x first", "memory", "XNNPACK", "operators"):
        table.add_column(heading, justify="right", no_wrap=True)
    threads = None
    for row in report["models"]:
        if threads not in (None, row["threads"]):
            table.add_section()
        threads = row["threads"]
        cells = [row["name"], or_dash(row["bytes"], in_bytes), str(threads)]
        if row["error"]:
            table.add_row(*[Text(cell, "red") for cell in cells])
            continue
        cells += [
            three_digits(row["latency_ms_p50"]),
            three_digits(row["latency_ms_p95"]),
            or_dash(row["ratio"], "{:.2f}".format),
            or_dash(row["memory_bytes"], in_bytes),
            or_dash(row["delegated"], in_percent),
            str(sum(row["operators"].values())) if row["operators"] else "–",
        ]
        table.add_row(*map(Text, cells))
    return table


def _operators_table(name, profile):
    table = _table(name, "operator")
    for heading in ("runs in", "count", "ms", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    total = sum(operator["ms"] for operator in profile)
    for operator in profile:
        where = "XNNPACK" if operator["delegated"] else "LiteRT"
        share = operator["ms"] / total if total else 0
        cells = [operator["name"], where, str(operator["count"]), f"{operator['ms']:.3f}", f"{share:.1%}"]
        table.add_row(*map(Text, cells))
    return table


def _table(title, first):
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = table.pad_edge = False
    table.add_column(first, no_wrap=True)
    return table
