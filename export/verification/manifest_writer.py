"""Writes manifest.json: what an export directory holds, and how each file came about."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from keras_vit import __version__
from keras_vit.export.profiles import Profile
from keras_vit.export.quantization.model import QuantizeAware
from keras_vit.export.tflite.batch_size import can_resize
from keras_vit.export.verification.manifest import FORMAT, described
from keras_vit.files import write_json
from keras_vit.models.vit import ViT

LIBRARIES = ("keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer")


def write_manifest(
    folder: Path,
    models: dict,
    labels: list[str],
    files: dict[str, Profile],
    trained: set[str],
    source: dict | None = None,
) -> None:
    """Write manifest.json, and a report.json that has no results yet, to the export directory `folder`.

    Args:
        models: {profile: Keras model that the files came from}, "float32" among them; each is saved as
            keras/PROFILE.keras.
        labels: class names.
        files: {name of a file or folder in `folder`: its profile}.
        trained: the profiles whose quantization was trained.
        source: where the model came from.
    """
    how = {name: _quantization(model, name in trained) for name, model in models.items()}
    artifacts = [
        {
            **described(folder, name, profile.name),
            **({"resizable": can_resize(folder / name)} if name.endswith(".tflite") else {}),
            "source": source_file(profile),
            **how.get(profile.name, {}),
        }
        for name, profile in files.items()
    ]
    manifest = {
        **_about(models["float32"], labels, source),
        "sources": [{**described(folder, f"keras/{name}.keras", name), **how[name]} for name in models],
        "artifacts": artifacts,
        "ranges": {name: model.ranges for name, model in models.items() if how[name] and model.ranges},
    }
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "report.json", {"format": 1, "artifacts": artifacts})


def source_file(profile: Profile) -> str:
    """The Keras model, in an export directory, that the files of `profile` come from."""
    return f"keras/{profile.name if profile.quantized else 'float32'}.keras"


def preprocessing_of(model: Any) -> dict | None:
    """The preprocessing of the images of a `ViT` or `MultimodalViT`; None without images."""
    owners = [model, *getattr(model, "modalities", {}).values()]
    return next((owner.preprocessing for owner in owners if hasattr(owner, "preprocessing")), None)


def _quantization(model, trained):
    """How the quantization of a model came about; {} for a float one."""
    if not isinstance(model, QuantizeAware):
        return {}
    return {
        "trained": trained,
        "calibration": model.calibration and dict(model.calibration),
        "protect": list(model.protect),
    }


def _about(model, labels, source):
    return {
        "format": FORMAT,
        **_about_inputs(model),
        "preprocessing": preprocessing_of(model),
        "classes": model.num_classes,
        "activation": model.activation,
        "labels": labels,
        "data": source or {},
        "versions": {
            "keras_vit": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
    }


def _about_inputs(model):
    if isinstance(model, ViT):
        return {"model": model.config.to_dict(), "image_size": list(model.image_size)}
    config = model.get_config()
    return {
        "model": {key: value for key, value in config.items() if key not in ("modalities", "dtype")},
        "inputs": {
            name: {"shape": list(entry["shape"]), "dtype": entry["dtype"]}
            for name, entry in model.signature().items()
        },
        "modalities": [[name, _without_dtype(modality)] for name, modality in config["modalities"]],
    }


def _without_dtype(modality):
    """A serialized modality without what only a whole saved model needs."""
    config = {key: value for key, value in modality["config"].items() if key != "dtype"}
    return {key: modality[key] for key in ("module", "class_name", "registered_name")} | {"config": config}
