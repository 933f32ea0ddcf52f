"""`keras-vit import`: a published checkpoint becomes a RUN."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_path, parse_image_size
from keras_vit.commands.terminal import import_tensorflow, say, without_chatter


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="An original .npz, a timm .safetensors or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Option(help="The RUN folder; appears whole or not at all.")],
    num_classes: Annotated[int | None, typer.Option(help="A fresh head for so many classes.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file, one class name in each line.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Resize the positions, e.g. 384 or 64x96.")] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Attention heads, for a file that does not say.")
    ] = None,
) -> None:
    """Turn a published ViT or DeiT checkpoint into a RUN, to fine-tune, quantize and export."""
    size = parse_image_size(image_size)
    check_path(checkpoint, f"{checkpoint} does not exist: give an .npz, a .safetensors or a folder.")
    check_path(labels, f"{labels} cannot be read: --labels takes a text file.")
    import_tensorflow()
    from keras_vit.training.imports import import_run

    with without_chatter():
        model, kind = import_run(
            checkpoint, out, num_classes=num_classes, labels=labels, image_size=size, num_heads=num_heads
        )
    height, width = model.image_size
    say(
        f"{out}: {kind}, {model.count_params():,} parameters, width {model.config.width}, "
        f"{model.config.depth} blocks, patch {'x'.join(map(str, model.config.patch_size))}, "
        f"images {height}x{width}, {model.num_classes} classes"
    )
