"""A small but real export directory, built once for the tests of runners and verify.

It does not use keras_vit.export.tflite.convert: what checks the exporter must not lean on it.
"""

import hashlib
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import keras_vit

LABELS = ["apple", "pear", "plum"]
PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.25, 0.5, 0.4]}


def random_model(seed):
    """A Nano/2 whose answers depend on the image (a new head is all zeros)."""
    keras.utils.set_random_seed(seed)
    model = keras_vit.ViT("Nano/2", image_size=8, num_classes=3, preprocessing=PREPROCESSING)
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(weight + random.normal(0, 0.15, weight.shape))
    return model


def signature(function, batch):
    """`function` of pixels as a concrete function image -> {"probability"}, weights inside."""
    spec = tf.TensorSpec([batch, 8, 8, 3], tf.float32, name="image")
    frozen = convert_variables_to_constants_v2(tf.function(function).get_concrete_function(spec))
    serve = tf.function(lambda image: {"probability": frozen(image)[0]}, input_signature=[spec])
    return frozen, serve.get_concrete_function()


def save(function, folder, batch=None, key="serving_default"):
    module = tf.Module()
    module.frozen, serve = signature(function, batch)
    tf.saved_model.save(module, str(folder), signatures={key: serve})


def to_tflite(function, file, scratch, key="serving_default", representative=None):
    """Write `function` of pixels as a .tflite file; all integers if there are representative images."""
    save(function, scratch, batch=1, key=key)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch), signature_keys=[key])
    if representative is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([i[None].astype(np.float32)] for i in representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    file.write_bytes(converter.convert())


def probabilities(model):
    mean, std = model.preprocessing["mean"], model.preprocessing["std"]
    return lambda image: tf.nn.softmax(model((image / 255.0 - mean) / std))


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def models():
    return {"float32": random_model(3), "int8": random_model(2)}


@pytest.fixture(scope="session")
def directory(tmp_path_factory, models):
    """float32 throughout, except keras/int8.keras: another model, so that int8.tflite disagrees with it.

    cut.tflite is half a file, changed.tflite not the one whose SHA-256 the manifest has.
    """
    folder = tmp_path_factory.mktemp("export")
    (folder / "keras").mkdir()
    for name, model in models.items():
        model.save(folder / "keras" / f"{name}.keras")
    function = probabilities(models["float32"])
    save(function, folder / "saved_model" / "1")
    to_tflite(function, folder / "float32.tflite", tmp_path_factory.mktemp("scratch"))
    content = (folder / "float32.tflite").read_bytes()
    files = {"int8.tflite": content, "cut.tflite": content[: len(content) // 2], "changed.tflite": content}
    artifacts = [entry("float32.tflite", content, "float32")]
    for name, data in files.items():
        (folder / name).write_bytes(data)
        artifacts.append(entry(name, data, "int8" if name == "int8.tflite" else "float32"))
    artifacts[-1]["sha256"] = "0" * 64
    inside = {file.relative_to(folder / "saved_model/1").as_posix(): file for file in files_in(folder)}
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()} {name}\n" for name, file in inside.items()]
    artifacts.append(entry("saved_model/1", "".join(lines).encode(), "float32"))
    keras_files = {name: (folder / "keras" / f"{name}.keras").read_bytes() for name in models}
    sources = [entry(f"keras/{name}.keras", content, name) for name, content in keras_files.items()]
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    manifest = {
        "format": 1,
        "image_size": [8, 8],
        "labels": LABELS,
        "artifacts": artifacts,
        "sources": sources,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def files_in(folder):
    """Those of the SavedModel, by name."""
    inside = folder / "saved_model" / "1"
    files = [path for path in inside.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.relative_to(inside).as_posix())


def entry(name, content, profile):
    return {
        "name": name,
        "profile": profile,
        "source": f"keras/{profile}.keras",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@pytest.fixture(scope="session")
def convert():
    """`to_tflite`, for tests that need a file of their own."""
    return to_tflite


@pytest.fixture(scope="session")
def float_probabilities(models, images):
    """The answers of the float32 model, computed without any runner."""
    return probabilities(models["float32"])(images.astype(np.float32)).numpy()
