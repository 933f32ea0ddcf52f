"""`export`: one trained model becomes an export directory, which appears whole or not at all.

DIR/float32.tflite int8.tflite ...   one file for each profile
    saved_model/1/ serving/          for TF Serving: the model, and files that start a server
    keras/float32.keras ...          the Keras models that the files came from
    labels.txt manifest.json report.json
"""

import contextlib
import hashlib
import importlib.metadata
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras_vit
from keras_vit.errors import InputError
from keras_vit.export.aware import quantize_aware
from keras_vit.export.convert import convert
from keras_vit.export.graph import fold, in_float32
from keras_vit.export.layout import check_ours
from keras_vit.export.metadata import checked_labels
from keras_vit.export.profiles import profile_named
from keras_vit.export.saved_model import write_saved_model
from keras_vit.export.serving import checked_version, write_serving
from keras_vit.files import atomic_directory, write_json


def export(
    model,
    directory,
    profiles=("float32",),
    calibration=None,
    labels=None,
    aware=None,
    source=None,
    served="float32",
    version=1,
    name=None,
    description="",
    author="",
    licence="",
    status=None,
):
    """Write an export directory; see this module's first lines.

    Args:
        model: the float `ViT`; one in mixed precision is exported as float32.
        directory: made whole or not at all. One that an earlier export made is replaced; any
            other folder that is not empty is refused.
        profiles: names of profiles.
        calibration: pictures for a static profile that was not trained, as in `quantize_aware`.
        labels: class names; "0", "1", ... by default.
        aware: {profile: trained `QuantizeAware` model}. A quantized profile without one gets the
            post-training quantization of `model`.
        served: the profile that the SavedModel computes, float32 or one of `profiles`.
        version: number of the SavedModel's folder, by which TF Serving tells models apart.
        name, description, author, licence: what each .tflite file says of itself, in the metadata that
            MediaPipe and other readers show.
        source: what to note in the manifest about where the model came from (a dict).
        status: called with one line before each step.

    Raises:
        InputError: unknown profile, labels that do not fit, a folder that is not ours, a static
            profile with neither a trained model nor calibration.
        ConversionError: the converter's process failed.
    """
    directory, aware, status = Path(directory), dict(aware or {}), status or (lambda line: None)
    profiles = [profile_named(name) for name in dict.fromkeys(profiles)]
    if not profiles:
        raise InputError("no profile given: name at least one, e.g. float32.")
    model = in_float32(model)
    folded = fold(model)
    labels = checked_labels(labels if labels is not None else range(model.classes))
    if len(labels) != model.classes:
        raise InputError(
            f"{len(labels)} labels for a model with {model.classes} classes: give one for each class."
        )
    checked_version(version)
    if served != "float32" and served not in [profile.name for profile in profiles]:
        raise InputError(f"served={served!r}: the SavedModel is float32 or one of the given profiles.")
    about = {
        "labels": labels,
        "preprocessing": model.preprocessing,
        "name": name or "keras_vit ViT",
        "author": author,
        "licence": licence,
        "version": keras_vit.__version__,
    }
    check_ours(directory)
    for profile in profiles:
        if profile.activations == "static" and profile.name not in aware and calibration is None:
            raise InputError(
                f"{profile.name} needs ranges: `keras-vit quantize RUN --profile {profile.name}` trains "
                "them, or give calibration images."
            )

    with atomic_directory(directory) as folder, _short_disk(directory):
        (folder / "keras").mkdir()
        model_of = {"float32": model}
        for profile in profiles:
            if profile.quantized:
                if profile.name not in aware:
                    status(f"{profile.name}: post-training quantization, since none was trained")
                    aware[profile.name] = quantize_aware(model, profile.name, calibration)
                model_of[profile.name] = aware[profile.name]
        for name, source_model in model_of.items():
            source_model.save(folder / "keras" / f"{name}.keras")

        def work(profile):
            status(f"{profile.name}.tflite")
            purpose = f"Image classifier, {profile.name}: {profile.purpose}."
            convert(
                folder / "keras" / f"{profile.name}.keras",
                folder / f"{profile.name}.tflite",
                profile.name,
                metadata={**about, "description": description or purpose},
            )

        with ThreadPoolExecutor(2) as pool:  # each conversion is a process, and mostly one thread
            conversions = [pool.submit(work, profile) for profile in profiles]
            status(f"saved_model/{version}")
            one = folded if served == "float32" else aware[served]
            write_saved_model(one, folder / "saved_model" / str(version), labels)
            for conversion in conversions:
                conversion.result()
        tflite = folder / f"{served}.tflite"
        write_serving(folder, model.image_size, version, tflite=tflite if tflite.is_file() else None)
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        artifacts = [_artifact(folder, f"{profile.name}.tflite", profile.name) for profile in profiles]
        artifacts.append(_artifact(folder, f"saved_model/{version}", served))
        manifest = _manifest(model, labels, artifacts, source)
        write_json(folder / "manifest.json", manifest)
        write_json(folder / "report.json", {"format": 1, "artifacts": manifest["artifacts"]})


def _manifest(model, labels, artifacts, source):
    return {
        "format": 1,
        "model": model.config.to_dict(),
        "image_size": list(model.image_size),
        "preprocessing": model.preprocessing,
        "labels": labels,
        "artifacts": artifacts,
        "data": source or {},
        "versions": {
            "keras_vit": keras_vit.__version__,
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer")
            },
        },
    }


def _artifact(folder, name, profile):
    path = folder / name
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return {
        "name": name,
        "profile": profile,
        "source": f"keras/{profile}.keras",
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": digest.hexdigest(),
    }


@contextlib.contextmanager
def _short_disk(directory):
    """TensorFlow and h5py have their own exceptions for a full disk: make them one OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"writing {directory} failed: {error.message.splitlines()[0]}") from None
