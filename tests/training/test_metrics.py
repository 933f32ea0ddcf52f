"""The loss that is shown: the mean over the real examples of batches that were filled up."""

import keras
import numpy as np
import pytest

from keras_vit.training.metrics import CountedLoss
from keras_vit.training.training_model import TrainingModel

RANDOM = np.random.default_rng(0)


def test_each_real_example_counts_once():
    losses = RANDOM.uniform(1, 2, 7)
    metric = CountedLoss(name="loss")
    metric.update_state(losses[:4].mean(), batch_size=4)
    filled = np.float32([4 / 3, 4 / 3, 4 / 3, 0])  # three that are real, and one that fills up
    metric.update_state(np.sum(filled[:3] * losses[4:]) / 4, filled, 4)
    assert float(metric.result()) == pytest.approx(losses.mean(), rel=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_fit_and_evaluate_show_the_mean_over_the_real_examples(parts):
    x = RANDOM.normal(size=(8, 3)).astype("float32")
    y = RANDOM.normal(size=(8, 1)).astype("float32")
    weights = np.float32([1, 1, 1, 1, 4 / 3, 4 / 3, 4 / 3, 0])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    training = TrainingModel(model, accumulate=parts)
    training.compile(keras.optimizers.SGD(0.0), "mse")
    expected = np.mean((np.asarray(model(x)) - y)[:7] ** 2)
    found = training.fit(x, y, batch_size=4, sample_weight=weights, shuffle=False, verbose=0).history["loss"]
    assert found == pytest.approx([expected], rel=1e-5)
    assert training.evaluate(x, y, 4, sample_weight=weights, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(x, y, 4, sample_weight=weights, verbose=0) != pytest.approx(expected, rel=1e-3), (
        "Keras' own counts what fills up"
    )
