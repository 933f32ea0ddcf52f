"""`export`: one trained model becomes an export directory, which appears whole or not at all.

DIR/float32.tflite int8.tflite ...   one file for each profile
    saved_model/1/ serving/          for TF Serving: the model, and files that start a server
    keras/float32.keras ...          the Keras models that the files came from
    labels.txt manifest.json report.json
    text.vocabulary.txt                  of each text of a multimodal model: an id is the number of its line
"""

import contextlib
import errno
import importlib.metadata
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_vit import __version__
from keras_vit.errors import InputError
from keras_vit.export.compiled_loss import notice_loss
from keras_vit.export.examples import compare_order
from keras_vit.export.ownership import check_ours
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.model import QuantizeAware
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.quantization.spec import check_takes
from keras_vit.export.tf_serving.saved_model import write_saved_model
from keras_vit.export.tf_serving.serving_files import checked_version, write_serving
from keras_vit.export.tflite.batch_size import can_resize
from keras_vit.export.tflite.convert import ConversionError, convert, write_graph
from keras_vit.export.tflite.fold import fold, in_float32
from keras_vit.export.tflite.metadata import labels_for
from keras_vit.export.verification.manifest import FORMAT, described
from keras_vit.files import atomic_directory, write_json
from keras_vit.inspect.rollout import rollout_names
from keras_vit.models.vit import ViT


def export(
    model,
    directory,
    profiles=("float32",),
    calibration=None,
    labels=None,
    aware=None,
    protect=None,
    source=None,
    served="float32",
    version=1,
    name=None,
    description="",
    author="",
    licence="",
    rollout=False,
    status=None,
):
    """Write an export directory; see this module's first lines.

    Args:
        model: the float `ViT` or `MultimodalViT`; one in mixed precision is exported as float32.
        directory: made whole or not at all. One that an earlier export made is replaced; any
            other folder that is not empty is refused.
        profiles: names of profiles.
        calibration: pictures for a profile with trained ranges that was not trained, as in
            `quantize_aware`; or a `Calibration`, which also says how many, by which seed and method.
        labels: class names; "0", "1", ... by default. Of a model of one class the name of that class, as in
            ["defect"], or those of the labels 0 and 1, as in ["fine", "defect"].
        aware: {profile: trained `QuantizeAware` model}. A quantized profile without one gets the
            post-training quantization of `model`.
        protect: {profile: names of layers that stay float} for those without a trained model, e.g.
            {"int8_static": ["block_0.mlp", "block_11.mlp"]}; `sensitivity.choose_protected` finds them.
        served: the profile that the SavedModel computes, float32 or one of `profiles`.
        version: number of the SavedModel's folder, by which TF Serving tells models apart.
        name, description, author, licence: what each .tflite file says of itself, in the metadata that
            MediaPipe and other readers show.
        rollout: give each .tflite file of a `ViT` a second output `rollout` [1, rows, columns], how much of
            each patch reached the answer (`inspect.attention_rollout`); not int8_full, which has no float.
        source: what to note in the manifest about where the model came from (a dict).
        status: called with one line before each step.

    A compiled model whose loss means something else than its `activation` gives a `Notice`.

    Raises:
        InputError: unknown profile, labels that do not fit, a folder that is not ours, trained
            ranges with neither a trained model nor calibration, a layer that cannot be protected.
        ConversionError: the converter's process failed.
    """
    directory, status = Path(directory), status or (lambda line: None)
    trained, protect = dict(aware or {}), dict(protect or {})
    profiles = [profile_named(name) for name in dict.fromkeys(profiles)]
    if not profiles:
        raise InputError("no profile given: name at least one, e.g. float32.")
    given, model = model, in_float32(model)
    folded = fold(model)
    for each in (given, *trained.values()):
        notice_loss(each)
        if each.activation != model.activation:
            raise InputError(
                f"a trained model has activation={each.activation!r} and the float model "
                f"{model.activation!r}: set that of one of them, so that all files mean the same."
            )
    labels = labels_for(model, labels)
    compare_order(calibration, labels)
    checked_version(version)
    if served != "float32" and served not in [profile.name for profile in profiles]:
        raise InputError(f"served={served!r}: the SavedModel is float32 or one of the given profiles.")
    about = {
        "labels": labels[-model.num_classes :],  # of one class, the name of that
        "activation": model.activation,
        "preprocessing": _preprocessing(model),
        "name": name or f"keras_vit {type(model).__name__}",
        "author": author,
        "licence": licence,
        "version": __version__,
    }
    check_ours(directory)
    for profile in profiles:
        if profile.has_trained_ranges and profile.name not in trained and calibration is None:
            raise InputError(
                f"{profile.name} needs ranges: `keras-vit quantize RUN --profile {profile.name}` trains "
                "them, or give calibration images."
            )
    if rollout and not isinstance(model, ViT):
        raise InputError(
            "a rollout output is for a ViT alone: `keras-vit explain` draws that of a MultimodalViT."
        )
    own = getattr(folded, "config", None) and folded.config.custom
    for profile in profiles if own else ():
        if profile.quantized:
            check_takes(profile, folded)
    if rollout:
        rollout_names(folded)  # refuses a model that has no attention to show
    for name, layers in protect.items():
        check_protectable(name, layers, [profile.name for profile in profiles], trained)

    with atomic_directory(directory) as folder, _short_disk(directory), contextlib.ExitStack() as stack:
        (folder / "keras").mkdir()
        model_of = {"float32": model}
        for profile in profiles:
            if not profile.quantized:
                continue
            if profile.name in trained:
                model_of[profile.name] = trained[profile.name]
                continue
            layers = protect.get(profile.name, ())
            but = f" but for {', '.join(layers)}" if layers else ""
            status(f"{profile.name}: post-training quantization{but}")
            model_of[profile.name] = post_training(model, profile.name, calibration, layers)
        for name, source_model in model_of.items():
            source_model.save(folder / "keras" / f"{name}.keras")

        graph = None
        if own:
            graph = stack.enter_context(tempfile.TemporaryDirectory())
            write_graph(folded, graph, rollout)

        def work(profile):
            status(f"{profile.name}.tflite")
            kind = "Image" if hasattr(model, "image_size") else "Multimodal"
            purpose = f"{kind} classifier, {profile.name}: {profile.purpose}."
            try:
                convert(
                    folder / _source(profile),
                    folder / f"{profile.name}.tflite",
                    profile.name,
                    metadata={**about, "description": description or purpose},
                    rollout=rollout and profile.activations != "full",
                    graph=graph,
                )
            except ConversionError as error:
                if not own:
                    raise
                names = ", ".join(f"{field}={name}" for field, name in own.items())
                raise InputError(
                    f"{profile.name}.tflite cannot hold a ViT with {names}: LiteRT has no operators for what "
                    f"a layer of your own computes ({error}). Write it with others, or serve "
                    "model.export(...)."
                ) from None

        with ThreadPoolExecutor(2) as pool:  # each conversion is a process, and mostly one thread
            conversions = [pool.submit(work, profile) for profile in profiles]
            status(f"saved_model/{version}")
            one = model_of[served] if profile_named(served).quantized else folded
            write_saved_model(one, folder / "saved_model" / str(version), labels)
            for conversion in conversions:
                conversion.result()
        tflite = folder / f"{served}.tflite"
        write_serving(folder, model, version, tflite=tflite if tflite.is_file() else None)
        for key, modality in getattr(model, "modalities", {}).items():
            if getattr(modality, "vocabulary", None):
                modality.vocabulary.save(folder / f"{key}.vocabulary.txt")
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")

        files = {f"{profile.name}.tflite": profile for profile in profiles}
        files[f"saved_model/{version}"] = profile_named(served)
        how = {name: _how(source_model, name in trained) for name, source_model in model_of.items()}
        manifest = {
            **_about(model, labels, source),
            "sources": [{**described(folder, f"keras/{name}.keras", name), **how[name]} for name in model_of],
            "artifacts": [
                {
                    **described(folder, name, profile.name),
                    **({"resizable": can_resize(folder / name)} if name.endswith(".tflite") else {}),
                    "source": _source(profile),
                    **how.get(profile.name, {}),
                }
                for name, profile in files.items()
            ],
            "ranges": {name: m.ranges for name, m in model_of.items() if how[name] and m.ranges},
        }
        write_json(folder / "manifest.json", manifest)
        write_json(folder / "report.json", {"format": 1, "artifacts": manifest["artifacts"]})


def _source(profile):
    return f"keras/{profile.name if profile.quantized else 'float32'}.keras"


def check_protectable(name, layers, profiles, trained):
    """Refuse a list of layers to protect for something that is not quantized here, or only as a whole."""
    profile = profile_named(name, quantized=True)
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise InputError(f"protect must be a list of names such as block_0.mlp, not {layers!r}.")
    if name not in profiles or name in trained:
        why = "it was trained, and is exported as it was" if name in trained else "it is not exported"
        raise InputError(f"no layer of {name} can be protected: {why}.")
    if layers and profile.activations == "full":
        raise InputError(f"no layer of {name} can be protected: all of it is int8. Use int8_static.")


def _how(model, trained):
    """How a quantized model came about, for the manifest; {} for a float one."""
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
        "preprocessing": _preprocessing(model),
        "classes": model.num_classes,
        "activation": model.activation,
        "labels": labels,
        "data": source or {},
        "versions": {
            "keras_vit": __version__,
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("keras", "tensorflow", "ai-edge-litert", "ai-edge-quantizer")
            },
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
        "modalities": [[name, _plain(modality)] for name, modality in config["modalities"]],
    }


def _plain(modality):
    """A serialized modality without what only a whole saved model needs."""
    config = {key: value for key, value in modality["config"].items() if key != "dtype"}
    return {key: modality[key] for key in ("module", "class_name", "registered_name")} | {"config": config}


def _preprocessing(model):
    """That of the images."""
    owners = [model, *getattr(model, "modalities", {}).values()]
    return next((owner.preprocessing for owner in owners if hasattr(owner, "preprocessing")), None)


@contextlib.contextmanager
def _short_disk(directory):
    """TensorFlow and h5py have their own exceptions for a full disk: make them one OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        message = error.message.splitlines()[0]
        if isinstance(error, tf.errors.ResourceExhaustedError):  # its name for ENOSPC
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise OSError(f"writing {directory} failed: {message}") from None
