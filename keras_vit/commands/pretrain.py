"""`keras-vit pretrain`: learn from pictures without their labels, by guessing what was hidden."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    check_data,
    check_model,
    find_devices,
    load_images,
    parse_image_size,
    start_from,
)
from keras_vit.commands.options import (
    Accumulate,
    Augment,
    BatchSize,
    Channels,
    Data,
    Ema,
    Epochs,
    ImageSize,
    LearningRate,
    NewRun,
    Precision,
    RecipeName,
    RunningOptions,
    Seed,
    Variant,
    WarmupEpochs,
    WeightDecay,
    recipe_fields,
    takes,
)
from keras_vit.commands.terminal import say
from keras_vit.commands.train import reporting, train_and_say


@dataclasses.dataclass(frozen=True)
class PretrainOptions(RunningOptions):
    """What `keras-vit pretrain` takes."""

    data: Data
    out: NewRun
    mode: Annotated[str | None, typer.Option(help="simmim, or mae, whose steps cost less.")] = None
    ratio: Annotated[float | None, typer.Option(help="Share of the patches that is hidden.")] = None
    normalise: Annotated[
        bool | None, typer.Option(help="Predict patches without their own brightness and contrast.")
    ] = None
    start: Annotated[
        Path | None, typer.Option(help="Go on from the weights of this RUN, model.keras or checkpoint.")
    ] = None
    variant: Variant = None
    image_size: ImageSize = None
    channels: Channels = None
    recipe: RecipeName = None
    pooling: Annotated[str | None, typer.Option(help="cls or mean: what fine-tuning will use.")] = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate: LearningRate = None
    warmup_epochs: WarmupEpochs = None
    weight_decay: WeightDecay = None
    augment: Augment = None
    precision: Precision = None
    ema: Ema = None
    accumulate: Accumulate = None
    seed: Seed = None


@takes(PretrainOptions)
def pretrain(options: PretrainOptions) -> None:
    """Pretrain a masked Vision Transformer; `train --start RUN` fine-tunes it, `probe RUN` scores it."""
    parse_image_size(options.image_size)
    shown = reporting(options, options.out)
    check_data(options.data)
    check_model(options.start, "--start")
    devices = find_devices(options.strategy)  # first: workers must meet before TensorFlow does anything
    from keras_vit.distributed.strategies import is_chief
    from keras_vit.training import recipes
    from keras_vit.training.methods.pretraining import pretrain

    started, shape = start_from(options)
    fields = {**recipe_fields(options, recipes.PretrainingRecipe), **shape}
    chosen = recipes.pretraining_recipe(options.recipe, **fields)
    channels = chosen.model_config().channels
    loaded = load_images(options.data, chosen.image_size, options.skip_bad, options.data_service, channels)
    train_and_say(pretrain, loaded, options.out, chosen, shown, start=started, strategy=devices)
    if is_chief(devices) and options.progress == "bar":
        out = options.out
        say(
            f"{out / 'reconstructions.png'}; next: keras-vit train {options.data} --start {out} --out ANOTHER"
        )
