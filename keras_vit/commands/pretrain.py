"""`keras-vit pretrain`: learn from pictures without their labels, by guessing what was hidden."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    Data,
    SaveMinutes,
    ShownProgress,
    SkipBad,
    TensorBoard,
    find_devices,
    load_images,
    parse_image_size,
)
from keras_vit.commands.terminal import say, without_chatter
from keras_vit.commands.train import reporting, train_and_say
from keras_vit.config import PRESETS, VARIANTS


def pretrain(
    data: Data,
    out: Annotated[Path, typer.Option(help="The RUN folder; the same command continues an interrupted run.")],
    mode: Annotated[str | None, typer.Option(help="simmim, or mae, whose steps cost less.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the patches that is hidden.")] = None,
    normalise: Annotated[
        bool | None, typer.Option(help="Predict patches without their own brightness and contrast.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Go on from the weights of this RUN, model.keras or checkpoint.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help=f"Model: {', '.join((*VARIANTS, *PRESETS))} with a patch size, e.g. Ti/16."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels, e.g. 224 or 64x96 (height x width). Default: suits the data.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="thumbnails, small or standard. Default: by image size.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="cls or mean: what fine-tuning will use.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images for each step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Length of the warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    augment: Annotated[str | None, typer.Option(help="As of `keras-vit train`.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")] = None,
    ema: Annotated[float | None, typer.Option(help="Keep the moving average of the weights.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts of a batch, for less memory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, masks.")] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, none, mirrored (GPUs of this machine) or multiworker.")
    ] = "auto",
    progress: ShownProgress = "bar",
    save_minutes: SaveMinutes = 10.0,
    tensorboard: TensorBoard = False,
    skip_bad: SkipBad = False,
):
    """Pretrain a masked Vision Transformer; `train --start RUN` fine-tunes it, `probe RUN` scores it."""
    size = parse_image_size(image_size)
    shown = reporting(out, progress, save_minutes, tensorboard)
    devices = find_devices(strategy)  # first: workers must meet before TensorFlow does anything
    from keras_vit.training import recipes
    from keras_vit.training.data import suggest_image_size
    from keras_vit.training.imports import load_start, start_options

    started = None
    if start is not None:
        with without_chatter():
            started = load_start(start)
        size = size or started.image_size
        variant, pooling = start_options(started, variant, pooling)
    chosen = recipes.pretraining_recipe(
        recipe,
        size or (suggest_image_size(data),) * 2,
        mode=mode,
        ratio=ratio,
        normalise=normalise,
        variant=variant,
        pooling=pooling,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        augment=augment,
        precision=precision,
        ema=ema,
        accumulate=accumulate,
        seed=seed,
    )
    loaded = load_images(data, chosen.image_size, skip_bad)
    train_and_say(loaded, out, chosen, shown, start=started, strategy=devices)
    from keras_vit.training.pretraining import draw_run
    from keras_vit.training.strategies import is_chief

    if is_chief(devices):
        draw_run(loaded, out)
        if progress == "bar":
            say(f"{out / 'reconstructions.png'}; next: keras-vit train {data} --start {out} --out ANOTHER")
