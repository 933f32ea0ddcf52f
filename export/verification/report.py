"""The verification report, for people: a table in the terminal, and report.json and report.html.

    report = verify("dist", (images, labels))
    rich.print(table(report))
    write_report(report, "dist", images)        # images as given to verify; only samples are shown

report.html is one file that loads nothing: it can be mailed, archived, or served from anywhere.
"""

import base64
import io
import math
import re
from pathlib import Path

import jinja2
import numpy as np

from keras_vit.files import atomic_write, finite, write_json
from keras_vit.inspect.channels import as_rgb

BASE = "float32.tflite"  # what the other latencies are compared with
TEMPLATE = Path(__file__).with_name("report.html.jinja")
THUMBNAIL = 192  # longest side in pixels of a picture in the page
BLUE, AMBER = "#3b7dd8", "#c98a1b"  # told apart on white and on black, also by the colour-blind


def pictures_of(examples):
    """The pictures uint8 [N, H, W, C] among labelled examples, or None: for `write_report`."""
    if hasattr(examples, "images"):
        return examples.images
    for x in examples.inputs.values():
        if x.dtype == np.uint8 and len(x.shape) == 4 and x.shape[3] in (1, 3):
            return x
    return None


def table(report):
    """The report as a `rich.table.Table`, one row per artifact; failures in red, with the reason."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # No frame, no units, no p95: so it fits a terminal of 80 columns.
    title = f"{report['images']} examples, {report['machine']['cpu']}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.show_edge = out.pad_edge = False
    out.add_column("artifact", no_wrap=True)
    for heading in ("size", short_measure(report), "agree", "max diff", "ms", "speed", "XNNPACK"):
        out.add_column(heading, justify="right", no_wrap=True)
    for row in _rows(report):
        if row["error"]:
            out.add_row(Text(row["name"], "red"), Text(row["size"], "red"), *[""] * 6)
        else:
            out.add_row(*[Text(row[key]) for key in _SHOWN])
    failed = [row for row in report["artifacts"] if row["error"]]
    if failed:
        # In a cell the reason would squeeze every other column.
        out.caption = Text("\n".join(f"{row['name']}: {row['error']}" for row in failed), "red")
        out.caption_justify = "left"
    return out


def write_report(report, directory, images=None):
    """Write report.json and report.html into `directory`, each in one step.

    Args:
        report: what `verify` returned. NaN and infinity become null, since JSON has none.
        directory: the export directory.
        images: the images that `verify` was given, uint8 [N, H, W, C], for the pictures of the samples.
    """
    directory = Path(directory)
    report = finite(report)
    page = html(report, images)
    write_json(directory / "report.json", report)
    with atomic_write(directory / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def html(report, images=None):
    """The page as a string."""
    report = finite(report)
    environment = jinja2.Environment(
        autoescape=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = in_percent
    rows = _rows(report)
    fine = [row for row in report["artifacts"] if not row["error"]]
    samples = [
        {
            "label": sample["label"],
            "picture": None if images is None else _data_uri(as_rgb(images[sample["index"]])),
            "small": images is not None and max(images.shape[1:3]) < 96,
            "answers": [
                {
                    "name": name,
                    "label": answer["label"],
                    "percent": in_percent(answer["probability"]),
                    "right": answer["label"] == sample["label"],
                }
                for name, answer in sample["answers"].items()
            ],
        }
        for sample in report["samples"]
    ]
    charts = []
    if fine:
        names = [row["name"] for row in fine]
        latencies = [row["latency_ms_p50"] for row in fine]
        charts = [
            _bars("Time for one example", names, latencies, BLUE, _milliseconds),
            _bars("Size on disk", names, [row["bytes"] for row in fine], AMBER, in_bytes),
        ]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        rows=rows,
        fine=fine,
        charts=charts,
        samples=samples,
        base=BASE,
        measure=report.get("measure", "top-1"),
        activation=report.get("activation", "softmax"),
    )


_SHOWN = ("name", "size", "top1", "agreement", "max_diff", "ms", "speed_up", "delegated")


def short_measure(report):
    """What heads the column of `top1`, see `verification.scores`."""
    return "top-1" if report.get("measure", "top-1") == "top-1" else "right"


def _rows(report):
    """The artifacts with every number as the text that is shown; a missing one is a dash."""
    base = next((row["latency_ms_p50"] for row in report["artifacts"] if row["name"] == BASE), None)
    return [
        {
            "name": row["name"],
            "profile": row["profile"],
            "error": row["error"],
            "size": or_dash(row["bytes"], in_bytes),
            "top1": or_dash(row["top1"], in_percent),
            "agreement": or_dash(row["agreement"], in_percent),
            "max_diff": or_dash(row["max_abs_diff"], "{:.2g}".format),
            "kl": or_dash(row["kl"], "{:.2g}".format),
            "ms": or_dash(row["latency_ms_p50"], three_digits),
            "p50": or_dash(row["latency_ms_p50"], _milliseconds),
            "p95": or_dash(row["latency_ms_p95"], _milliseconds),
            "speed_up": or_dash(
                base and row["latency_ms_p50"] and base / row["latency_ms_p50"], "{:.2f}x".format
            ),
            "delegated": or_dash(row["delegated"], in_percent),
            "operators": row["operators"] or {},
        }
        for row in report["artifacts"]
    ]


def or_dash(value, form):
    return "–" if value is None or not math.isfinite(value) else form(value)


def in_percent(share):
    """A share as a percentage, which says 100% and 0% only when it is exactly that."""
    if 0 < share < 1:
        share = min(max(share, 0.0001), 0.9999)
        return f"{100 * share:.2f}%" if not 0.001 <= share <= 0.999 else f"{100 * share:.1f}%"
    return f"{100 * share:.0f}%"


def _milliseconds(value):
    return f"{three_digits(value)} ms"


def three_digits(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def in_bytes(value):
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _data_uri(image):
    """A picture as a data: URI; PNG keeps the pixels of small ones exact."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, np.uint8))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _bars(title, names, values, colour, form):
    """A bar for each artifact with its value, as an SVG element that takes the page's text colour."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text: it is searchable, and drawn in the page's font.
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 0.5 + 0.3 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        values = [0 if value is None else value for value in values]
        bars = axes.barh(names, values, color=colour, height=0.62)
        axes.bar_label(bars, [form(value) if value else "–" for value in values], padding=5, color=_INK)
        axes.set_xlim(0, max(values) * 1.25 or 1)
        axes.set_title(title, color=_INK, loc="left", fontsize=11, fontweight="bold")
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    svg = file.getvalue().replace(_INK, "currentColor")
    # Inside HTML an <svg> needs no XML head, namespaces or metadata: they only look like addresses.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r"\1", svg)  # as wide as its place on the page,
    svg = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", svg)  # and as high as that asks for
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


_INK = "#010203"  # stands for the text colour until the picture is in the page
