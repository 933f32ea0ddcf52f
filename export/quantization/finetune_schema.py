"""The schemas of the JSON files in RUN/quantized/PROFILE, which `formats.read_document` checks."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # that of Python 3.11 does not tell pydantic enough

from keras_vit.formats import Share


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
