"""What the JSON files of a RUN, an export and a packed set hold; `read_document` reads them and checks that.

A schema names the fields that are read, with their types; pydantic checks it, and converts nothing. Fields
that it does not name, such as those of a newer version, are ignored, and kept.
"""

import functools
import json
import math
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # that of Python 3.11 does not tell pydantic enough

from keras_vit.answers import labels_fit, output_name
from keras_vit.config import with_new_names
from keras_vit.errors import InputError
from keras_vit.files import read_regular
from keras_vit.training.recipes import recipe_class

FORMAT = 1  # of all of them, until one changes
LARGEST = 2**26  # bytes; a manifest with the ranges of a large model has less than one million


@functools.cache
def _adapter(schema):
    return TypeAdapter(schema)


def _recipe(value):
    _adapter(recipe_class(value)).validate_json(json.dumps(value), strict=True)
    if "image_size" not in value:  # which has a default, but not that of the model
        raise ValueError("image_size is missing")
    return value


def _inside(name):
    path = PurePosixPath(name)
    leaves = path.parts == () or path.is_absolute() or ".." in path.parts
    if leaves or not name.isprintable() or len(name) > 255:
        raise ValueError("must be a path inside the folder")
    return name


Whole = Annotated[int, Field(ge=0, lt=2**53)]
Side = Annotated[int, Field(gt=0, lt=2**16)]
Size = tuple[Side, Side]
Share = Annotated[float, Field(ge=0, le=1)]
Labels = Annotated[list[str], Field(min_length=1)]
Name = Annotated[str, AfterValidator(_inside)]
Recipe = Annotated[dict[str, Any], AfterValidator(_recipe)]
Modalities = list[tuple[str, dict[str, Any]]]


class Source(TypedDict):
    """Which data a RUN was trained on; none of an imported one."""

    source: str | None
    fingerprint: str | None


class Teacher(TypedDict):
    source: str | None
    weights: str | None


class Run(TypedDict):
    """config.json of a RUN."""

    labels: Labels
    data: Source
    recipe: Recipe
    checkpoint: NotRequired[dict[str, Any]]
    teacher: NotRequired[Teacher | None]


class Epoch(TypedDict):
    """One row of history.json."""

    epoch: Whole
    loss: NotRequired[float]
    accuracy: NotRequired[float]
    val_loss: NotRequired[float]
    val_accuracy: NotRequired[float]


class ScoredEpoch(Epoch):
    """One of a training of which the best epoch is kept."""

    val_accuracy: float


HISTORY, SCORED_HISTORY = list[Epoch], list[ScoredEpoch]  # history.json


class Quantized(TypedDict):
    """config.json of RUN/quantized/PROFILE."""

    recipe: dict[str, Any]  # only compared
    model: NotRequired[str]
    distill: NotRequired[Annotated[float, Field(ge=0)]]


class Comparison(TypedDict):
    """comparison.json of RUN/quantized/PROFILE: top-1 of the examples that choices are made by."""

    float: Share
    post_training: Share
    trained: NotRequired[Share]
    kept: NotRequired[Literal["trained", "post_training"]]


class Model(TypedDict):
    """One of the manifest's `sources`."""

    name: Name
    profile: NotRequired[str]
    bytes: NotRequired[Whole]
    sha256: NotRequired[str | None]


class File(Model):
    """One of the manifest's `artifacts`."""

    source: Name


class Normalisation(TypedDict):
    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Input(TypedDict):
    shape: list[Side]
    dtype: Literal["float32", "int32"]


def _is_whole(manifest):
    if "image_size" not in manifest and not {"inputs", "modalities"} <= set(manifest):
        raise ValueError("image_size is missing, and so are inputs and modalities")
    num_classes, output = manifest.get("classes"), output_name(manifest.get("activation", "softmax"))
    if num_classes is not None and not labels_fit(len(manifest["labels"]), num_classes, output):
        raise ValueError(f"{len(manifest['labels'])} labels for {num_classes} classes")
    return manifest


class _Manifest(TypedDict):
    format: Literal[1]
    labels: Labels
    preprocessing: NotRequired[Normalisation | None]
    activation: NotRequired[Literal["softmax", "sigmoid"] | None]
    classes: NotRequired[Side]
    artifacts: list[File]
    sources: NotRequired[list[Model]]
    image_size: NotRequired[Size]
    inputs: NotRequired[Annotated[dict[str, Input], Field(min_length=1)]]
    modalities: NotRequired[Modalities]


Manifest = Annotated[_Manifest, AfterValidator(_is_whole)]  # manifest.json of an export directory


class Shards(TypedDict):
    """How many pictures are in each shard."""

    train: list[Annotated[int, Field(ge=0, le=2**26)]]
    test: list[Annotated[int, Field(ge=0, le=2**26)]]
    val: NotRequired[list[Annotated[int, Field(ge=0, le=2**26)]]]


class Packed(TypedDict):
    """dataset.json of a packed set."""

    format: Literal[1]
    labels: Labels
    fingerprint: str
    suggested_image_size: Side
    shards: Shards


def read_document(path: str | Path, schema: Any, way_out: str) -> Any:
    """The JSON in a file, which must be as `schema` says.

    Args:
        schema: a type of this module, or a list of one.
        way_out: what the user can do where it is not, e.g. "restore it".

    Raises:
        InputError: no such file, not readable, no JSON, or something else in it.
    """
    path = Path(path)
    try:
        data = read_regular(path, LARGEST)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}: {way_out}.") from error
    try:
        value = parsed(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {way_out}.") from error
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise InputError(f"{path} was made by a newer version of keras_vit: install that, or {way_out}.")
    value = _with_new_names(value)
    problem = problem_with(value, schema)
    if problem:
        raise InputError(f"{path} is damaged ({problem}): {way_out}.")
    return value


def _with_new_names(value):
    """The document with the recipe that it may hold under today's names."""
    match value:
        case {"recipe": {"variant": {**variant}} as recipe}:
            return {**value, "recipe": {**recipe, "variant": with_new_names(variant)}}
    return value


def parsed(data: bytes | str) -> Any:
    """`json.loads`, which refuses NaN and infinity. Raises ValueError or RecursionError."""
    return json.loads(data, parse_constant=_no_number, parse_float=_number)


def problem_with(value: Any, schema: Any) -> str | None:
    """What is wrong with `value`, in a few words, or None."""
    try:
        # Through JSON, where a list may stand for a tuple, and nothing else is converted.
        _adapter(schema).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"  # of a recipe that cannot be
    return None


def _no_number(text):
    raise ValueError(f"{text} is no number in JSON")


def _number(text):
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large a number")
    return number
