"""`keras-vit find-rate`: a learning rate for a model and its data, from a short training."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_data, check_model, load_images, parse_image_size, start_from
from keras_vit.commands.options import (
    Augment,
    BatchSize,
    Channels,
    Data,
    Dropout,
    Freeze,
    ImageSize,
    LabelSmoothing,
    Pooling,
    Precision,
    RecipeName,
    Seed,
    SkipBad,
    Variant,
    WeightDecay,
    recipe_fields,
    takes,
)
from keras_vit.commands.terminal import import_tensorflow, say, task
from keras_vit.errors import InputError


@dataclasses.dataclass(frozen=True)
class FindRateOptions:
    """What `keras-vit find-rate` takes."""

    data: Data
    out: Annotated[Path | None, typer.Option(help="A picture of loss against rate, e.g. lr.png.")] = None
    start: Annotated[
        Path | None, typer.Option(help="For fine-tuning this RUN, model.keras or checkpoint.")
    ] = None
    recipe: RecipeName = None
    variant: Variant = None
    image_size: ImageSize = None
    channels: Channels = None
    pooling: Pooling = None
    batch_size: BatchSize = None
    weight_decay: WeightDecay = None
    label_smoothing: LabelSmoothing = None
    dropout: Dropout = None
    freeze: Freeze = None
    augment: Augment = None
    precision: Precision = None
    seed: Seed = None
    steps: Annotated[int, typer.Option(help="How many, at most.")] = 100
    lowest: Annotated[float, typer.Option(help="Rate of the first step.")] = 1e-6
    highest: Annotated[float, typer.Option(help="Rate of the last step.")] = 1.0
    skip_bad: SkipBad = False


@takes(FindRateOptions)
def find_rate(options: FindRateOptions) -> None:
    """Raise the learning rate from step to step until the loss explodes; leaves no RUN."""
    parse_image_size(options.image_size)
    check_data(options.data)
    check_model(options.start, "--start")
    import_tensorflow()
    from keras_vit.inspect.plots import check_suffix
    from keras_vit.training import recipes
    from keras_vit.training.methods import learning_rate_finder

    out = options.out
    if out is not None:
        check_suffix(out)  # before anything slow
    started, shape = start_from(options)
    chosen = recipes.recipe(options.recipe, **{**recipe_fields(options, recipes.Recipe), **shape})
    channels = chosen.model_config().channels
    loaded = load_images(options.data, chosen.image_size, options.skip_bad, channels=channels)
    rates = options.steps, options.lowest, options.highest
    with task("rates") as progress:
        found = learning_rate_finder.find_rate(loaded, chosen, started, *rates, progress)
    if out is not None:
        learning_rate_finder.draw_rates(found, out)
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
