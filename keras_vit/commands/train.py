"""`keras-vit train`: pictures, or several modalities, become a RUN."""

import dataclasses
import importlib.util
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    check_data,
    check_model,
    find_devices,
    is_multimodal,
    load_images,
    load_multimodal,
    parse_image_size,
    start_from,
)
from keras_vit.commands.options import (
    Accumulate,
    Augment,
    BatchSize,
    Channels,
    Data,
    Dropout,
    Ema,
    Epochs,
    Freeze,
    ImageSize,
    LabelSmoothing,
    LearningRate,
    NewRun,
    Pooling,
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
from keras_vit.commands.terminal import console, say, without_chatter
from keras_vit.errors import InputError, NotInstalled, one_of
from keras_vit.files import finite
from keras_vit.scenarios import SCENARIOS


@dataclasses.dataclass(frozen=True)
class TrainOptions(RunningOptions):
    """What `keras-vit train` takes."""

    data: Data
    out: NewRun
    start: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune this RUN, model.keras or checkpoint; a head that does not fit is fresh."
        ),
    ] = None
    variant: Variant = None
    image_size: ImageSize = None
    channels: Channels = None
    recipe: RecipeName = None
    pooling: Pooling = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate: LearningRate = None
    warmup_epochs: WarmupEpochs = None
    weight_decay: WeightDecay = None
    label_smoothing: LabelSmoothing = None
    dropout: Dropout = None
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the learning rate from each block to the one before.")
    ] = None
    freeze: Freeze = None
    augment: Augment = None
    precision: Precision = None
    early_stop: Annotated[
        int | None,
        typer.Option(help="Stop after N epochs without a better held-out accuracy; keep the best."),
    ] = None
    ema: Ema = None
    accumulate: Accumulate = None
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from the answers of this RUN, model.keras or checkpoint too.")
    ] = None
    distill: Annotated[
        str | None,
        typer.Option(help="What of them: hard (its best class, the default) or soft (its probabilities)."),
    ] = None
    distill_weight: Annotated[
        float | None, typer.Option(help="The teacher's share of the loss; 0.5 by default.")
    ] = None
    temperature: Annotated[float | None, typer.Option(help="Of soft answers; 3 by default.")] = None
    distillation_token: Annotated[
        bool | None,
        typer.Option("--distillation-token", help="A second [CLS] and head that learn from the teacher."),
    ] = None
    seed: Seed = None
    fusion: Annotated[str | None, typer.Option(help="Several modalities: single_stream or bottleneck.")] = (
        None
    )
    modality_dropout: Annotated[
        float | None, typer.Option(help="Several modalities: how often one is left out in training.")
    ] = None
    sentence: Annotated[
        int | None, typer.Option(help="Make a visual sentence of so many tokens of each text.")
    ] = None


@takes(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a Vision Transformer on your pictures, or on several modalities."""
    parse_image_size(options.image_size)
    shown = reporting(options, options.out)
    check_data(options.data)
    check_model(options.start, "--start")
    check_model(options.teacher, "--teacher")
    if is_multimodal(options.data):
        _train_multimodal(options, shown)
    else:
        _train_on_images(options, shown)


def _train_on_images(options, shown):
    """`train` for pictures.

    Args:
        shown: what `reporting` gave.
    """
    _refuse(
        options,
        MULTIMODAL_FIELDS,
        "--fusion, --modality-dropout and --sentence are for several modalities, and "
        f"{options.data} has pictures alone: see the README on a folder with train.csv and test.csv.",
    )
    distill = options.distill
    if options.teacher is None:
        _refuse(
            options,
            DISTILLATION_FIELDS,
            "--distill, --distill-weight, --temperature and --distillation-token say how to learn from a "
            "--teacher: give one.",
        )
    else:
        distill = distill or "hard"
    devices = None
    if options.start is not None:
        devices = find_devices(options.strategy)  # first: workers must meet before TensorFlow does anything
    started, shape = start_from(options)
    from keras_vit.training import recipes

    fields = {**recipe_fields(options, recipes.Recipe), **shape, "distill": distill}
    chosen = recipes.recipe(options.recipe, **fields)
    channels = chosen.model_config().channels
    loaded = load_images(options.data, chosen.image_size, options.skip_bad, options.data_service, channels)
    if started is None:
        devices = find_devices(options.strategy)
    teaching = None
    if options.teacher is not None:
        from keras_vit.training.methods.distillation import load_teacher

        with without_chatter():
            teaching = load_teacher(options.teacher, loaded.labels)
    from keras_vit.training.trainer import train

    train_and_say(
        train, loaded, options.out, chosen, shown, start=started, teacher=teaching, strategy=devices
    )


def _refuse(options, names, message):
    """Raise an InputError when one of the options with these names was given."""
    if any(getattr(options, name) is not None for name in names):
        raise InputError(message)


def reporting(options: RunningOptions, out: Path) -> dict:
    """The arguments of `training.train` for what is saved and seen of it, from a command's options."""
    one_of("progress", options.progress, ("bar", "json", "quiet"))  # before anything slow
    if not 0 <= options.save_minutes < float("inf"):
        raise InputError(f"--save-minutes is 0 (after each step) or more, not {options.save_minutes:g}.")
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise NotInstalled("--tensorboard", "tensorboard", extra="tensorboard")
    return {
        "progress": options.progress,
        "save_seconds": 60 * options.save_minutes,
        "tensorboard": out / "tensorboard" if options.tensorboard else None,
    }


def train_and_say(train, data, out, recipe, shown, **options):
    """Train, and say in a line how it ended.

    Args:
        train: `training.train` or `training.pretrain`.
        shown: what `reporting` gave.
        options: further ones of `train`.
    """
    start = time.monotonic()
    history = train(data, out, recipe, console(), **shown, **options)
    last = history[-1]
    scores = ", ".join(
        f"{words} {last[name]:.4f}"
        for name, words in (("val_accuracy", "held-out top-1"), ("val_loss", "held-out loss"))
        if name in last
    )
    if shown["progress"] == "json":
        print(json.dumps(finite({"event": "end", "run": str(out), "epochs": len(history), **last})))
    elif shown["progress"] == "bar":
        minutes = (time.monotonic() - start) / 60
        say(f"{out}: {scores} after {len(history)} epochs; this took {minutes:.1f} minutes")


def _train_multimodal(options, shown):
    """`train` for several modalities.

    Args:
        shown: what `reporting` gave.
    """
    data = options.data
    for name in IMAGE_FIELDS:
        _refuse(
            options,
            [name],
            f"--{name.replace('_', '-')} is for models of images alone, and {data} has several modalities.",
        )
    devices = find_devices(options.strategy)
    from keras_vit.data.cell_readers import Options
    from keras_vit.scenarios import scenario
    from keras_vit.training.recipes import MultimodalRecipe, multimodal_recipe, trunk
    from keras_vit.training.trainer import train

    training = recipe_fields(options, MultimodalRecipe, but=(*IMAGE_FIELDS, *SHAPE_FIELDS))
    model = {name: getattr(options, name) for name in ("fusion", "modality_dropout")}
    model = {name: value for name, value in model.items() if value is not None}
    variant, patch_size = trunk(options.variant)
    if data in SCENARIOS:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in SHAPE_FIELDS)
        _refuse(options, SHAPE_FIELDS, f"the scenario {data} has its own model: leave out {names}.")
        ours = scenario(data)
        if hasattr(ours, "run"):
            raise InputError(
                f"{data} trains more than one model: `keras-vit demo --scenario {data}` does it all."
            )
        variant = ours.MODEL
        training = {**ours.TRAINING, **{key: value for key, value in training.items() if value is not None}}
    reading = Options(parse_image_size(options.image_size), patch_size, sentence=options.sentence)
    loaded = load_multimodal(data, reading, skip_bad=options.skip_bad)
    chosen = multimodal_recipe(loaded, variant={**variant, **model}, **training)
    train_and_say(train, loaded, options.out, chosen, shown, strategy=devices)


# Names of options: what a model of several modalities is built from, ...
SHAPE_FIELDS = ("image_size", "variant", "sentence")
# ... what only such a model has, ...
MULTIMODAL_FIELDS = ("fusion", "modality_dropout", "sentence")
# ... how to learn from a teacher, ...
DISTILLATION_FIELDS = ("distill", "distill_weight", "temperature", "distillation_token")
# ... and what is for models of images alone.
IMAGE_FIELDS = (
    "start",
    "recipe",
    "channels",
    "pooling",
    "layer_decay",
    "freeze",
    "augment",
    "data_service",
    "teacher",
    *DISTILLATION_FIELDS,
)
