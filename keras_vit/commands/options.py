"""Arguments and options that several commands have. Importing this imports neither Keras nor TensorFlow."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from keras_vit.config import PRESETS, VARIANTS
from keras_vit.training.recipes import RECIPES

Data = Annotated[
    str,
    typer.Argument(
        help="A folder or .zip of class folders, or what `keras-vit pack` made of one; a folder with "
        "train.csv and test.csv for several modalities; 'digits', 'cifar10', tfds:NAME or a scenario."
    ),
]
Run = Annotated[Path, typer.Argument(help="A folder made by `keras-vit train`.")]
NewRun = Annotated[Path, typer.Option(help="The RUN folder; the same command continues an interrupted run.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, and count them.")]
DataService = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Let `keras-vit serve-data` there prepare a packed set's pictures."
    ),
]

# Fields of a recipe; None leaves what it says.
Variant = Annotated[
    str | None, typer.Option(help=f"Model: {', '.join((*VARIANTS, *PRESETS))} with a patch size, e.g. Ti/16.")
]
ImageSize = Annotated[
    str | None, typer.Option(help="Pixels, e.g. 224 or 64x96 (height x width). Default: suits the data.")
]
Channels = Annotated[
    int | None, typer.Option(help="1 for grey pictures, the luma of those in colours. Default: 3.")
]
RecipeName = Annotated[str | None, typer.Option(help=f"{', '.join(RECIPES)}. Default: by image size.")]
Pooling = Annotated[str | None, typer.Option(help="cls or mean.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images for each step.")]
LearningRate = Annotated[float | None, typer.Option(help="Its peak.")]
WarmupEpochs = Annotated[float | None, typer.Option(help="Length of the warm-up.")]
WeightDecay = Annotated[float | None, typer.Option(help="Of AdamW.")]
LabelSmoothing = Annotated[float | None, typer.Option(help="Share of the label given to all classes.")]
Dropout = Annotated[float | None, typer.Option(help="Dropout rate in the model.")]
Freeze = Annotated[int | None, typer.Option(help="Keep the patches and that many first blocks as they are.")]
Augment = Annotated[
    str | None,
    typer.Option(
        help="none, affine (no mirroring), light (crop, mirror), crop (pad, crop, mirror) or strong "
        "(that, RandAugment, erasing, MixUp or CutMix)."
    ),
]
Precision = Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")]
Ema = Annotated[
    float | None,
    typer.Option(help="Evaluate and save the moving average of the weights, e.g. 0.999; 0 is off."),
]
Accumulate = Annotated[
    int | None,
    typer.Option(help="Compute a batch's gradient in so many parts: the same result in less memory."),
]
Seed = Annotated[int | None, typer.Option(help="Of weights, order, augmentation, and all that is random.")]

# How a training runs, and what is seen of it.
Strategy = Annotated[str, typer.Option(help="auto, none, mirrored (GPUs of this machine) or multiworker.")]
ShownProgress = Annotated[str, typer.Option("--progress", help="bar, json (one object a line) or quiet.")]
SaveMinutes = Annotated[float, typer.Option(help="How often to save within an epoch; after each one anyway.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write OUT/tensorboard.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningOptions:
    """How a training runs, and what is seen of it: the last options of `train` and `pretrain`."""

    strategy: Strategy = "auto"
    progress: ShownProgress = "bar"
    save_minutes: SaveMinutes = 10.0
    tensorboard: TensorBoard = False
    skip_bad: SkipBad = False
    data_service: DataService = None


def takes(options: type) -> Callable:
    """Decorator of a command(options): its parameters are the fields of a dataclass, as it is made from them.

    A field is written as Typer's parameters are: `epochs: Annotated[int | None, typer.Option(...)] = None`.
    """
    types = get_type_hints(options, include_extras=True)
    parameters = [
        parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=types[name])
        for name, parameter in inspect.signature(options).parameters.items()
    ]

    def decorate(command):
        @functools.wraps(command)
        def with_parameters(*arguments, **named):
            return command(options(*arguments, **named))

        with_parameters.__signature__ = inspect.Signature(parameters)
        with_parameters.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_parameters

    return decorate


def recipe_fields(options: Any, recipe: type, but: tuple = ()) -> dict:
    """{field: value} of those options that are fields of the dataclass `recipe`; None leaves what it says.

    Args:
        options: of a command.
        but: names of fields that are left out.
    """
    names = {field.name for field in dataclasses.fields(options)}
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(recipe)
        if field.name in names and field.name not in but
    }
