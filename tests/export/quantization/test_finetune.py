"""Distillation: the loss against NumPy, and what it leaves alone."""

import json

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.quantization.finetune import (
    FloatModelLoss,
    about_run,
    check_distill,
    finetune,
    load_trained,
)
from keras_vit.export.quantization.post_training import post_training
from keras_vit.training import load_data, recipe, train
from keras_vit.training.training_model import TrainingModel

FLOAT = "76a7e234dc54e9c605b2cc9fdf71279526150df48c574bdfa69e436e0b3d5c18"  # printf float | sha256sum
AWARE = "8bf9fd4be091a1baa7d3947484c1b90a1ce69f0df2facb671c8658ea9f4704d8"  # printf aware | sha256sum


def dense(seed):
    random = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.activation = "softmax"  # as a ViT says of its logits
    model.set_weights([random.normal(size=(4, 3)), random.normal(size=3)])
    return model


@pytest.fixture
def batch():
    random = np.random.default_rng(9)
    return random.normal(size=(6, 4)).astype("float32"), np.eye(3, dtype="float32")[random.integers(0, 3, 6)]


def log_softmax(x):
    x = np.asarray(x, "float64")
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def compiled(student, teacher, weight, rate=0.0):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    training = TrainingModel(student, FloatModelLoss(teacher, weight))
    training.compile(keras.optimizers.SGD(rate), loss)
    return training


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_is_that_of_numpy(batch, weight):
    x, y = batch
    student, teacher = dense(1), dense(2)
    p, q = log_softmax(teacher(x)), log_softmax(student(x))
    usual = -np.mean(np.sum((0.9 * y + 0.1 / 3) * q, -1))
    distilled = np.mean(np.sum(np.exp(p) * (p - q), -1))
    assert distilled > 0.1
    training = compiled(student, teacher, weight)
    assert training.train_on_batch(x, y) == pytest.approx(usual + weight * distilled, rel=1e-5)
    assert training.test_on_batch(x, y) == pytest.approx(usual, rel=1e-5), "held-out losses stay comparable"


def test_its_gradient_pulls_the_student_to_the_teacher_and_the_teacher_stays(batch):
    x, y = batch
    student, teacher = dense(1), dense(2)
    before = [w.copy() for w in teacher.get_weights()]
    training = compiled(student, teacher, 100.0, rate=0.02)
    gap = np.abs(log_softmax(student(x)) - log_softmax(teacher(x))).max()
    for _ in range(200):
        training.train_on_batch(x, y)
    assert np.abs(log_softmax(student(x)) - log_softmax(teacher(x))).max() < 0.2 * gap
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_taught_model_is_saved_as_a_plain_one(tmp_path):
    model = ViT("Nano/4", image_size=8, num_classes=2, depth=1)
    plain, taught = (post_training(model, "int8") for _ in range(2))
    training = compiled(taught, model, 1.0)
    assert len(training.variables) == len(taught.variables) == len(plain.variables)
    assert taught.get_config().keys() == plain.get_config().keys()
    taught.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(plain) and not {"compute_loss", "train_step"} & (
        set(vars(loaded)) | set(vars(taught))
    )


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "1", True])
def test_a_weight_that_is_none(weight):
    with pytest.raises(InputError, match="distill is the weight of a loss, 0 or more, not"):
        check_distill(weight)


def test_what_is_noted_about_a_run(tmp_path):
    folder = tmp_path / "quantized" / "int8"
    folder.mkdir(parents=True)
    (tmp_path / "model.keras").write_bytes(b"float")
    (folder / "model.keras").write_bytes(b"aware")
    (folder / "config.json").write_text('{"recipe": {}, "distill": 0.5}')
    top1 = {"float": 0.9, "post_training": 0.7, "trained": 0.8}
    (folder / "comparison.json").write_text(json.dumps(top1))
    config = {"data": {"source": "digits", "fingerprint": "ab"}, "checkpoint": {"sha256": "cd"}}
    assert about_run(tmp_path, config, ["int8"]) == {
        "source": "digits",
        "fingerprint": "ab",
        "model_sha256": FLOAT,
        "checkpoint": {"sha256": "cd"},
        "quantized": {
            "int8": {
                "model_sha256": AWARE,
                "distill": 0.5,
                "top1": top1,
            }
        },
    }
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is not valid JSON .*: delete that folder, and quan"):
        about_run(tmp_path, config, ["int8"])


@pytest.mark.parametrize(
    ("rate", "kept"), [pytest.param(1e-9, "trained", marks=pytest.mark.slow), (10.0, "post_training")]
)
def test_the_start_competes_with_the_epochs(tmp_path, rate, kept):
    """A learning rate of 10 ruins every epoch; one of almost nothing changes nothing."""
    data = load_data("digits")
    chosen = recipe("thumbnails", epochs=2, variant="Nano/4", batch_size=64, augment="none")
    train(data, tmp_path, chosen, Console(quiet=True))
    finetune(tmp_path, "int8", data, epochs=1, learning_rate=rate, console=Console(quiet=True))
    found = json.loads((tmp_path / "quantized/int8/comparison.json").read_text())
    assert found["kept"] == kept
    assert (found["trained"] < 0.5 * found["post_training"]) == (rate == 10.0)
    model = load_trained(tmp_path)["int8"]
    answers = np.argmax(model((data.test.images / 255.0 - 0.5) / 0.5), -1)
    assert np.mean(answers == data.test.labels) == pytest.approx(found[kept], abs=0.005)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "labels": ["a", "b", "c"]}))
    with pytest.raises(InputError, match=r"config.json names 3 classes, and model.keras has 10"):
        finetune(tmp_path, "int8", data, epochs=1, console=Console(quiet=True))
