"""`keras-vit show`: what an augmentation policy does to pictures, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_data, is_multimodal, load_images, parse_image_size
from keras_vit.commands.options import Data, ImageSize, SkipBad
from keras_vit.commands.terminal import import_tensorflow, say, without_chatter
from keras_vit.errors import InputError, one_of


def show(
    data: Data,
    out: Annotated[Path, typer.Option(help="The picture to write, e.g. grid.png.")],
    policy: Annotated[str, typer.Option(help="As --augment of `train`, e.g. strong.")] = "strong",
    images: Annotated[int, typer.Option(min=1, max=32, help="How many pictures: a row for each.")] = 6,
    image_size: ImageSize = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the choice and the draws.")] = 0,
    skip_bad: SkipBad = False,
) -> None:
    """Show what augmentation does to training pictures: each step alone, and the whole policy."""
    from keras_vit.training.recipes import AUGMENTATIONS

    one_of("policy", policy, AUGMENTATIONS)  # before anything slow
    size = parse_image_size(image_size)
    check_data(data)
    if is_multimodal(data):
        raise InputError(f"{data} has several modalities, and augmentation is for pictures alone.")
    import_tensorflow()
    from keras_vit.inspect.plots import check_suffix
    from keras_vit.training.augmentation_grid import draw_augmentation

    check_suffix(out)
    loaded = load_images(data, size, skip_bad)
    if images > len(loaded.train):
        raise InputError(
            f"--images {images} is more than the {len(loaded.train)} training pictures of {data}."
        )
    import numpy as np

    chosen = np.sort(np.random.default_rng(seed).choice(len(loaded.train), images, replace=False))
    with without_chatter():
        draw_augmentation(
            np.asarray(loaded.train.images[chosen]),
            loaded.train.labels[chosen],
            loaded.labels,
            policy,
            out,
            seed,
        )
    say(f"{out}: {images} pictures, policy {policy}, seed {seed}")
