"""Exports of a ViT with layers of the user's own, which no other process knows."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from random_weights import randomize

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export import export, quantize_aware, verify
from keras_vit.export.verification.runners import load_runner
from keras_vit.inspect import attention_rollout


@keras.saving.register_keras_serializable("tests")
class Centred(keras.layers.Layer):
    """In the place of attention: plain Keras."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.project = keras.layers.Dense(config.width, "relu", dtype=self.dtype_policy)

    def call(self, tokens):
        return self.project(tokens - keras.ops.mean(tokens, axis=1, keepdims=True))


@keras.saving.register_keras_serializable("tests")
class Unknown(keras.layers.Layer):
    """A block of an operator that LiteRT does not have."""

    def call(self, tokens):
        return tokens + tf.math.betainc(0.5, 0.5, tf.sigmoid(tokens))


def build(**changes):
    return randomize(ViT("Nano/4", 8, 3, depth=2, **changes))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "dist"
    model = build(attention=Centred, include_preprocessing=True)
    export(model, folder, ["float32", "float16"], labels=["a", "b", "c"])
    return model, folder


def pixels(count=8):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_float_files_answer_as_the_model(exported):
    model, folder = exported
    expected = tf.nn.softmax(model(pixels().astype("float32")))
    for name, tolerance in (("float32.tflite", 1e-5), ("float16.tflite", 5e-3), ("saved_model", 1e-5)):
        found = load_runner(folder / name).predict(pixels())
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=name)


def test_verify_compares_them_with_the_model(exported):
    _, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["artifacts"] = [each for each in manifest["artifacts"] if each["name"] == "float16.tflite"]
    (folder / "manifest.json").write_text(json.dumps(manifest))  # one process less for each
    report = verify(folder, (pixels(), np.arange(8) % 3), seconds=0.01)
    rows = {row["name"]: row for row in report["artifacts"]}
    assert {name: row["error"] for name, row in rows.items()} == {
        "keras/float32.keras": None,
        "float16.tflite": None,
    }
    assert 0 < rows["float16.tflite"]["max_abs_diff"] < 5e-3


@pytest.mark.parametrize("profile", ["int8", "int8_static", "int8_full", "int4"])
def test_a_quantized_profile_names_what_it_cannot_take(profile, tmp_path):
    model = build(attention=Centred)
    said = f"{profile} cannot take a ViT with attention=tests>Centred: .* float32 or float16"
    with pytest.raises(InputError, match=said):
        quantize_aware(model, profile, pixels())
    with pytest.raises(InputError, match=said):
        export(model, tmp_path / "dist", ["float32", profile], calibration=pixels())
    assert not (tmp_path / "dist").exists()


def test_an_operator_that_no_file_can_hold_is_the_layers(tmp_path):
    model = build(block=Unknown)
    with pytest.raises(
        InputError, match=r"float32.tflite cannot hold a ViT with block=tests>Unknown: LiteRT"
    ):
        export(model, tmp_path / "dist", ["float32"])
    assert not (tmp_path / "dist").exists()


def test_there_is_no_attention_to_show(tmp_path):
    for changes in ({"attention": Centred}, {"block": Unknown}):
        model = build(**changes)
        with pytest.raises(InputError, match=r"tests>.* has no attention weights to show"):
            attention_rollout(model, model.prepare(pixels(1)))
        with pytest.raises(InputError, match=r"tests>.* has no attention weights to show"):
            export(model, tmp_path / "dist", ["float32"], rollout=True)
    mlp = build(mlp=Centred)
    assert attention_rollout(mlp, mlp.prepare(pixels(1))).shape == (1, 2, 2)
