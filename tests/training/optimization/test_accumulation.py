"""A batch in parts gives the weights of the whole batch: on one device, on two, and when interrupted."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from thirds_data import silent, thirds, tiny_recipe, vit

from keras_vit.errors import InputError
from keras_vit.training import recipe, train
from keras_vit.training.methods.distillation import Teacher


def weights(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


def test_four_times_8_is_32(tmp_path):
    """45 pictures: the second batch has 13, so four in one part and three in each other."""
    start, histories = vit(pooling="mean"), []
    for parts in (1, 4):
        chosen = tiny_recipe(batch_size=32, accumulate=parts, label_smoothing=0.0)
        histories.append(train(thirds(45), tmp_path / str(parts), chosen, silent(), start=start))
    for key in ("loss", "accuracy", "val_loss"):
        assert [row[key] for row in histories[0]] == pytest.approx(
            [row[key] for row in histories[1]], rel=1e-4
        )
    moved = []
    for a, b, before in zip(*(weights(tmp_path / name) for name in "14"), start.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        moved.append(np.abs(a - before).max())
    assert np.median(moved) > 1e-2


class Killed(Exception):
    pass


class KillIn(keras.callbacks.Callback):
    """Ends training in the middle of the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise Killed


@pytest.mark.slow
def test_a_broken_run_with_average_parts_and_teacher_ends_like_an_unbroken_one(tmp_path, monkeypatch):
    options = {"ema": 0.9, "accumulate": 2, "distill": "soft", "distillation_token": True, "pooling": "cls"}
    chosen, teacher = tiny_recipe(dropout=0.2, **options), Teacher(vit(seed=1), "here")
    train(thirds(), tmp_path / "unbroken", chosen, silent(), teacher=teacher)
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, KillIn()], **k),
    )
    with pytest.raises(Killed):
        train(thirds(), tmp_path / "broken", chosen, silent(), teacher=teacher, save_seconds=0)
    monkeypatch.undo()
    train(thirds(), tmp_path / "broken", chosen, silent(), teacher=teacher)
    for a, b in zip(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


TWO = """
import contextlib
import sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_vit.training import strategy
from keras_vit.training.training_model import TrainingModel
from keras_vit.training.optimization.averaging import averaged_weights
from keras_vit.training.optimization.optimizer import SummedAdamW

two = strategy("mirrored")
random = np.random.default_rng(0)
x, y = random.normal(size=(24, 4)).astype("float32"), random.normal(size=(24, 1)).astype("float32")


def fitted(scope, parts, dropout=0.0):
    with scope:
        layers = [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")]
        model = keras.Sequential([*layers, keras.layers.Dropout(dropout)])
        optimizer = SummedAdamW(1e-2, global_clipnorm=0.5, epsilon=1.0, use_ema=True, ema_momentum=0.9)
        training = TrainingModel(model, accumulate=parts)
        training.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
    training.fit(x, y, batch_size=12, epochs=5, shuffle=False, verbose=0)
    both = model.get_weights(), averaged_weights(model)
    return [np.concatenate([w.ravel() for w in weights]) for weights in both]


one = fitted(contextlib.nullcontext(), 1)
assert np.abs(one[0] - one[1]).max() > 1e-4, "the average is behind"
for a, b in zip(fitted(two.scope(), 3), one):
    np.testing.assert_allclose(a, b, atol=1e-6)
fitted(two.scope(), 2, dropout=0.5)
print("all is well")
"""


@pytest.mark.slow
def test_two_devices_divide_their_shares_and_average_alike():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    found = subprocess.run(
        [sys.executable, "-c", TWO], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "all is well", found.stderr[-2000:]


def test_parts_must_divide_the_batch():
    with pytest.raises(InputError, match=r"a batch of 64 cannot be divided into 3 equal parts"):
        recipe("standard", accumulate=3)
