"""`keras-vit find-rate`: a learning rate for a model and its data, from a short training."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import Data, SkipBad, load_images, parse_image_size
from keras_vit.commands.terminal import import_tensorflow, say, task, without_chatter
from keras_vit.errors import InputError


def find_rate(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="A picture of loss against rate, e.g. lr.png.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="For fine-tuning this RUN, model.keras or checkpoint.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="thumbnails, small or standard. Default: by image size.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Model, e.g. Ti/16.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Pixels, e.g. 224 or 64x96.")] = None,
    pooling: Annotated[str | None, typer.Option(help="cls or mean.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images for each step.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the label given to all.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout rate in the model.")] = None,
    freeze: Annotated[int | None, typer.Option(help="Keep the patches and that many first blocks.")] = None,
    augment: Annotated[str | None, typer.Option(help="As of `keras-vit train`.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, dropout.")] = None,
    steps: Annotated[int, typer.Option(help="How many, at most.")] = 100,
    lowest: Annotated[float, typer.Option(help="Rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Rate of the last step.")] = 1.0,
    skip_bad: SkipBad = False,
):
    """Raise the learning rate from step to step until the loss explodes; leaves no RUN."""
    size = parse_image_size(image_size)
    import_tensorflow()
    from keras_vit.inspect.pictures import check_suffix
    from keras_vit.training import rate_finder, recipes
    from keras_vit.training.data import suggest_image_size
    from keras_vit.training.imports import load_start, start_options

    if out is not None:
        check_suffix(out)  # before anything slow
    started = None
    if start is not None:
        with without_chatter():
            started = load_start(start)
        size = size or started.image_size
        variant, pooling = start_options(started, variant, pooling)
    chosen = recipes.recipe(
        recipe,
        image_size=size or (suggest_image_size(data),) * 2,
        variant=variant,
        pooling=pooling,
        batch_size=batch_size,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        dropout=dropout,
        freeze=freeze,
        augment=augment,
        precision=precision,
        seed=seed,
    )
    loaded = load_images(data, chosen.image_size, skip_bad)
    with task("rates") as progress:
        found = rate_finder.find_rate(loaded, chosen, started, steps, lowest, highest, progress)
    if out is not None:
        rate_finder.draw_rates(found, out)
        say(str(out))
    if found.best is None:
        raise InputError(
            f"the loss fell at no rate from {found.rates[0]:.2g} to {found.rates[-1]:.2g}: try a lower "
            "--lowest, or look at the data."
        )
    say(
        f"{len(found.rates)} steps, rates {found.rates[0]:.2g} to {found.rates[-1]:.2g}: the loss is lowest "
        f"at {found.lowest:.2g}" + (", and explodes at the end" if found.exploded else "")
    )
    print(f"--learning-rate {found.best:.2g}")
