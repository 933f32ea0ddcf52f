"""`export`: one trained model becomes an export directory, which appears whole or not at all.

DIR/float32.tflite int8.tflite ...   one file for each profile
    saved_model/1/ serving/          for TF Serving: the model, and files that start a server
    keras/float32.keras ...          the Keras models that the files came from
    labels.txt manifest.json report.json
    text.vocabulary.txt                  of each text of a multimodal model: an id is the number of its line
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_vit import __version__
from keras_vit.errors import InputError
from keras_vit.export.compiled_loss import notice_loss
from keras_vit.export.examples import compare_order
from keras_vit.export.options import About, Serving
from keras_vit.export.ownership import check_ours
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.model import QuantizeAware
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.quantization.spec import check_takes
from keras_vit.export.tf_serving.saved_model import write_saved_model
from keras_vit.export.tf_serving.serving_files import checked_version, write_serving
from keras_vit.export.tflite.convert import ConversionError, convert, write_graph
from keras_vit.export.tflite.fold import fold, in_float32
from keras_vit.export.tflite.metadata import labels_for
from keras_vit.export.verification.manifest_writer import preprocessing_of, source_file, write_manifest
from keras_vit.files import atomic_directory
from keras_vit.inspect.rollout import rollout_names
from keras_vit.models.vit import ViT


def export(
    model: Any,
    directory: str | os.PathLike,
    profiles: Iterable[str] = ("float32",),
    calibration: Any = None,
    labels: list[str] | None = None,
    *,
    trained: dict[str, QuantizeAware] | None = None,
    protect: dict[str, list[str]] | None = None,
    serving: Serving | None = None,
    about: About | None = None,
    rollout: bool = False,
    status: Callable[[str], None] | None = None,
) -> None:
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
        trained: {profile: trained `QuantizeAware` model}. A quantized profile without one gets the
            post-training quantization of `model`.
        protect: {profile: names of layers that stay float} for those without a trained model, e.g.
            {"int8_static": ["block_0.mlp", "block_11.mlp"]}; `sensitivity.choose_protected` finds them.
        serving: the profile and version of the SavedModel.
        about: what the files say of themselves.
        rollout: give each .tflite file of a `ViT` a second output `rollout` [1, rows, columns], how much of
            each patch reached the answer (`inspect.attention_rollout`); not int8_full, which has no float.
        status: called with one line before each step.

    A compiled model whose loss means something else than its `activation` gives a `Notice`.

    Raises:
        InputError: unknown profile, labels that do not fit, a folder that is not ours, trained
            ranges with neither a trained model nor calibration, a layer that cannot be protected.
        ConversionError: the converter's process failed.
    """
    directory, status = Path(directory), status or (lambda line: None)
    serving, about = serving or Serving(), about or About()
    trained, protect = dict(trained or {}), dict(protect or {})
    chosen = [profile_named(name) for name in dict.fromkeys(profiles)]
    if not chosen:
        raise InputError("no profile given: name at least one, e.g. float32.")
    notice_loss(model)
    model = in_float32(model)
    folded = fold(model)
    _check_activations(model, trained)
    labels = labels_for(model, labels)
    compare_order(calibration, labels)
    _check_serving(serving, chosen)
    check_ours(directory)
    _check_calibration(chosen, trained, calibration)
    custom = getattr(folded, "config", None) and folded.config.custom
    _check_parts(folded, chosen if custom else (), rollout)
    for name, layers in protect.items():
        check_protectable(name, layers, [profile.name for profile in chosen], trained)

    with (
        atomic_directory(directory) as folder,
        _short_disk(directory),
        tempfile.TemporaryDirectory() as graph,
    ):
        models = {"float32": model}
        for profile in chosen:
            if profile.name in trained:
                models[profile.name] = trained[profile.name]
            elif profile.quantized:
                layers = protect.get(profile.name, [])
                but = f" but for {', '.join(layers)}" if layers else ""
                status(f"{profile.name}: post-training quantization{but}")
                models[profile.name] = post_training(model, profile.name, calibration, layers)
        (folder / "keras").mkdir()
        for name, source in models.items():
            source.save(folder / "keras" / f"{name}.keras")
        if custom:
            write_graph(folded, graph, rollout)

        def write_tflite(profile):
            status(f"{profile.name}.tflite")
            try:
                convert(
                    folder / source_file(profile),
                    folder / f"{profile.name}.tflite",
                    profile.name,
                    metadata=_metadata(model, labels, about, profile),
                    rollout=rollout and profile.activations != "full",
                    graph=graph if custom else None,
                )
            except ConversionError as error:
                if custom:
                    raise _not_convertible(profile, custom, error) from None
                raise

        with ThreadPoolExecutor(2) as pool:  # each conversion is a process, and mostly one thread
            conversions = [pool.submit(write_tflite, profile) for profile in chosen]
            saved_model = f"saved_model/{serving.version}"
            status(saved_model)
            served = models[serving.profile] if profile_named(serving.profile).quantized else folded
            write_saved_model(served, folder / saved_model, labels)
            for conversion in conversions:
                conversion.result()
        tflite = folder / f"{serving.profile}.tflite"
        write_serving(folder, model, serving.version, tflite=tflite if tflite.is_file() else None)
        for key, modality in getattr(model, "modalities", {}).items():
            if getattr(modality, "vocabulary", None):
                modality.vocabulary.save(folder / f"{key}.vocabulary.txt")
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        files = {f"{profile.name}.tflite": profile for profile in chosen}
        files[saved_model] = profile_named(serving.profile)
        write_manifest(folder, models, labels, files, set(trained), about.source)


def _check_activations(model, trained):
    for each in trained.values():
        notice_loss(each)
        if each.activation != model.activation:
            raise InputError(
                f"a trained model has activation={each.activation!r} and the float model "
                f"{model.activation!r}: set that of one of them, so that all files mean the same."
            )


def _check_serving(serving, profiles):
    checked_version(serving.version)
    if serving.profile != "float32" and serving.profile not in [profile.name for profile in profiles]:
        raise InputError(
            f"the SavedModel cannot be {serving.profile!r}: it is float32 or one of the given profiles."
        )


def _check_calibration(profiles, trained, calibration):
    for profile in profiles:
        if profile.has_trained_ranges and profile.name not in trained and calibration is None:
            raise InputError(
                f"{profile.name} needs ranges: `keras-vit quantize RUN --profile {profile.name}` trains "
                "them, or give calibration images."
            )


def _check_parts(folded, profiles, rollout):
    """Refuse what a model has no parts for: profiles that its own layers exclude, and a rollout."""
    if rollout and not isinstance(folded, ViT):
        raise InputError(
            "a rollout output is for a ViT alone: `keras-vit explain` draws that of a MultimodalViT."
        )
    for profile in profiles:
        if profile.quantized:
            check_takes(profile, folded)
    if rollout:
        rollout_names(folded)  # refuses a model that has no attention to show


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


def _metadata(model, labels, about, profile):
    """The arguments of `add_metadata` for the file of `profile`."""
    inputs = "Image" if isinstance(model, ViT) else "Multimodal"
    return {
        "labels": labels[-model.num_classes :],  # of one class, the name of that
        "activation": model.activation,
        "preprocessing": preprocessing_of(model),
        "name": about.name or f"keras_vit {type(model).__name__}",
        "description": about.description or f"{inputs} classifier, {profile.name}: {profile.purpose}.",
        "author": about.author,
        "licence": about.licence,
        "version": __version__,
    }


def _not_convertible(profile, custom, error):
    names = ", ".join(f"{field}={name}" for field, name in custom.items())
    return InputError(
        f"{profile.name}.tflite cannot hold a ViT with {names}: LiteRT has no operators for what a layer of "
        f"your own computes ({error}). Write it with others, or serve model.export(...)."
    )


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
