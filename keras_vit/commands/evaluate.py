"""`keras-vit evaluate`: every copy of a model on the same held-out examples."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.answers import default_labels
from keras_vit.commands.common import (
    check_data,
    is_multimodal,
    load_images,
    load_multimodal,
    restored_modalities,
)
from keras_vit.commands.options import Data, SkipBad
from keras_vit.commands.terminal import import_tensorflow, task, wide_console
from keras_vit.errors import InputError, printable


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by `keras-vit export`.")],
    data: Data,
    limit: Annotated[int | None, typer.Option(min=1, help="Use that many of the held-out images.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to time each artifact.")] = 1.0,
    skip_bad: SkipBad = False,
) -> None:
    """Run every copy of the model on the same held-out images; write report.json and report.html."""
    from keras_vit.export.verification.verify import channels_of, class_names, read_manifest, verify

    check_data(data)
    manifest = read_manifest(directory)
    if "inputs" in manifest:
        import_tensorflow()
        loaded = load_multimodal(
            data, modalities=restored_modalities(manifest["modalities"]), skip_bad=skip_bad
        )
    elif is_multimodal(data):
        raise InputError(f"{directory} takes pictures alone, and {data} has several modalities.")
    else:
        size, channels = tuple(manifest["image_size"]), channels_of(manifest)
        loaded = load_images(data, size, skip_bad, channels=channels)
    known = class_names(manifest)
    # Other names are compared, and put in order, by `verify`; mere numbers say nothing to it.
    if known == default_labels(len(known)) and list(loaded.labels) != known:
        raise InputError(
            f"{data} has the classes {', '.join(loaded.labels[:5])} ({len(loaded.labels)}), the model "
            f"{', '.join(known[:5])} ({len(known)}): give data that has those."
        )
    with task("evaluating") as progress:
        report = verify(directory, loaded, limit=limit, seconds=seconds, progress=progress)
    from keras_vit.export.verification.report import pictures_of, table, write_report

    write_report(report, directory, pictures_of(loaded.test))
    wide_console().print(table(report))
    print(printable(directory / "report.html"))
    refused = [row for row in report["artifacts"] if row["refused"]]
    if refused:
        names = ", ".join(row["name"] for row in refused)
        raise InputError(f"refused {names} of {directory}: {refused[0]['error']}")
