"""What `export` can be told besides what to export: `About` and `Serving`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class About:
    """What the files of an export say of themselves.

    Attributes:
        name: of the model; "keras_vit ViT" or "keras_vit MultimodalViT" by default.
        description: what a .tflite file classifies and for whom; by default what its profile is for.
        author, licence: free text. These four stand in the metadata of each .tflite file, which MediaPipe and
            other readers show.
        source: where the model came from, for the manifest: a dict that JSON can hold.
    """

    name: str = ""
    description: str = ""
    author: str = ""
    licence: str = ""
    source: dict | None = None


@dataclasses.dataclass(frozen=True)
class Serving:
    """What the SavedModel of an export is.

    Attributes:
        profile: the profile that it computes: "float32" or one of those that are exported.
        version: number of its folder, by which TF Serving tells models apart.
    """

    profile: str = "float32"
    version: int = 1
