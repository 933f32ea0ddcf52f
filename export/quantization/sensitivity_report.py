"""What `sensitivity.choose_protected` found, for a terminal: a table and one or two lines."""

from rich.table import Table

from keras_vit.export.quantization.sensitivity import Choice


def sentences(choice: Choice) -> list[str]:
    """The result in one or two lines."""
    start, best = choice.steps[0], choice.score
    sample = f"{choice.images} held-out pictures, where one is {100 / choice.images:.2g} points"
    if not choice.protect:
        text = f"keep nothing in float: {start.drop:.2g} points of top-1 are lost"
    else:
        *others, last = choice.protect
        names = f"{', '.join(others)} and {last}" if others else last
        price = ""
        if choice.milliseconds:
            before, after = choice.milliseconds
            price = f"costs {after - before:.2g} ms ({before:.3g} to {after:.3g}), "
        gain = f"gains {start.drop - best.drop:.2g} points of top-1"
        text = f"keep {names} in float: {price}{gain} (of {start.drop:.2g} lost, {best.drop:.2g} are left)"
    lines = [f"{choice.profile}: {text}; measured on {sample}"]
    if not choice.reached:
        lines.append(
            f"{choice.profile}: no list loses {choice.max_drop:g} points or less, so this is the best one; "
            f"`keras-vit quantize RUN --profile {choice.profile}` trains the loss away"
        )
    return lines


def table(choice: Choice) -> Table:
    """A rich table: what each group in float brings alone, and with all groups above it."""
    shown = Table(title=f"{choice.profile}: one group in float, the rest quantized", title_justify="left")
    shown.add_column("in float", no_wrap=True)
    for column in ("points lost", "gained", "KL", "all down to here: lost", "KL"):
        shown.add_column(column, justify="right")
    shown.add_column("kept")
    start = choice.steps[0]
    shown.add_row("nothing", _points(start.drop), "", f"{start.kl:.2g}", "", "", "")
    for number, (group, score) in enumerate(choice.scores.items(), start=1):
        together = choice.steps[number] if number < len(choice.steps) else None
        shown.add_row(
            group,
            _points(score.drop),
            _points(start.drop - score.drop),
            f"{score.kl:.2g}",
            _points(together.drop) if together else "",
            f"{together.kl:.2g}" if together else "",
            "float" if group in choice.protect else "",
        )
    return shown


def _points(value):
    return f"{value + 0.0:.2f}"
