"""The schema of an export directory's manifest.json, which `formats.read_document` checks."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # that of Python 3.11 does not tell pydantic enough

from keras_vit.answers import labels_fit, output_name
from keras_vit.formats import Labels, Name, Side, Size, Whole

Modalities = list[tuple[str, dict[str, Any]]]


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
