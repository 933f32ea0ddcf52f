"""The schemas of the JSON files of a run directory, which `formats.read_document` checks."""

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator
from typing_extensions import TypedDict  # that of Python 3.11 does not tell pydantic enough

from keras_vit.formats import Labels, Whole, check
from keras_vit.training.recipes import recipe_class


def _recipe(value):
    check(value, recipe_class(value))
    if "image_size" not in value:  # which has a default, but not that of the model
        raise ValueError("image_size is missing")
    return value


Recipe = Annotated[dict[str, Any], AfterValidator(_recipe)]


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

    val_accuracy: float  # type: ignore[misc]  # required here


HISTORY, SCORED_HISTORY = list[Epoch], list[ScoredEpoch]  # history.json
