"""The moving average of the weights: its formula, and that it is what is evaluated and saved."""

import keras
import numpy as np
import pytest
from thirds_data import silent, thirds, tiny_recipe

from keras_vit.data.pipeline import evaluation_batches
from keras_vit.errors import InputError
from keras_vit.training import recipe, train
from keras_vit.training.optimization.averaging import EvaluateAverages, averaged_weights, averages
from keras_vit.training.optimization.optimizer import SummedAdamW


def small(**options):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(SummedAdamW(0.1, **options), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def test_it_is_the_formula_and_the_weights_stay_as_they_are():
    keras.utils.set_random_seed(0)
    averaging, plain = small(use_ema=True, ema_momentum=0.3), small()
    plain.set_weights(averaging.get_weights())
    random = np.random.default_rng(0)
    expected = averaging.get_weights()
    for done in range(6):
        gradients = [random.normal(size=w.shape).astype("float32") for w in expected]
        for model in (averaging, plain):
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        momentum = min(0.3, (1 + done) / (10 + done))  # which reaches 0.3 in the last steps
        weights = averaging.get_weights()
        expected = [momentum * a + (1 - momentum) * w for a, w in zip(expected, weights, strict=True)]
        for a, b in zip(averaged_weights(averaging), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    averaging.optimizer.finalize_variable_values(averaging.trainable_variables)
    for a, b in zip(averaging.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert averages(plain) == [] and len(averages(averaging)) == 2


def test_evaluation_puts_back_the_weights():
    model = small(use_ema=True)
    for variable, average in averages(model):
        average.assign(variable + 1)
    before = model.get_weights()
    callback = EvaluateAverages()
    callback.set_model(model)
    callback.on_test_begin()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(a, b + 1)
    callback.on_test_end()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_evaluates_and_saves_the_average(tmp_path):
    data, scores = thirds(), {}
    for name, ema in (("plain", 0.0), ("average", 0.95)):
        history = train(data, tmp_path / name, tiny_recipe(ema=ema, learning_rate=0.05), silent())
        model = keras.models.load_model(tmp_path / name / "model.keras", compile=False)
        model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1))
        loss = model.evaluate(evaluation_batches(data.test, model), verbose=0)
        assert loss == pytest.approx(history[-1]["val_loss"], rel=1e-5), name
        scores[name] = loss, history[-1]["loss"]
    assert scores["plain"][1] == pytest.approx(scores["average"][1], rel=1e-5), "it trains as without"
    assert abs(scores["plain"][0] - scores["average"][0]) > 1e-3, "and answers otherwise"


def test_no_momentum_of_1():
    with pytest.raises(InputError, match="ema must be between 0 and"):
        recipe("small", ema=1.0)
