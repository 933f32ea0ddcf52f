"""`keras-vit pack`: a set of pictures becomes TFRecord shards."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_data, parse_image_size, say_ignored
from keras_vit.commands.options import SkipBad
from keras_vit.commands.terminal import say, task


def pack(
    data: Annotated[
        str, typer.Argument(help="A folder or .zip of class folders; 'digits', 'cifar10' or tfds:NAME.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder; appears whole or not at all.")],
    shards: Annotated[int, typer.Option(help="Files for each split.")] = 16,
    image_size: Annotated[
        str | None, typer.Option(help="Resize, and store as PNG, e.g. 224 or 64x96. Default: as they are.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order in the shards, and of a split.")] = 0,
    skip_bad: SkipBad = False,
) -> None:
    """Pack pictures into TFRecord shards, which the other commands take in place of DATA."""
    size = parse_image_size(image_size)
    check_data(data)
    from keras_vit.data import packing

    with task("packing pictures") as progress:
        made = packing.pack(data, out, shards, size, seed, skip_bad, progress)
    if made["skipped"]:
        say(f"{len(made['skipped'])} bad pictures left out: {', '.join(made['skipped'][:5])}")
    say_ignored(made["ignored"])
    parts = (f"{sum(n)} {split} pictures in {len(n)} shards" for split, n in made["shards"].items())
    say(f"{out}: {', '.join(parts)}, {len(made['labels'])} classes")
