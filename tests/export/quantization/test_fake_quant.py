"""Fake quantizers against their formulas in NumPy, and against the real LiteRT."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit.export.quantization.fake_quant import FakeQuantizer


def symmetric(w):
    """Per output channel: s = max|w| / 127."""
    scale = np.abs(w).max(0) / 127
    return np.round(w / scale) * scale


def per_token(x):
    """Per vector: lo = min(x, 0), hi = max(x, 0), s = (hi - lo) / 255, z = round(-lo / s) - 128."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = (high - low) / 255
    zero = np.round(-low / scale) - 128
    return (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale


def asymmetric(x, low, high):
    scale = (high - low) / 255
    zero = np.round(-128 - low / scale)
    return (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_weights_are_symmetric_per_output_channel():
    w = normal(40, 6) * np.array([0.01, 0.1, 1, 10, 100, 1e-4], "float32")
    for training in (True, False):
        np.testing.assert_allclose(
            np.asarray(FakeQuantizer("weight")(w, training=training)), symmetric(w), rtol=1e-5
        )


def test_a_weight_that_changed_is_rounded_by_its_new_range_also_at_inference():
    quantizer = FakeQuantizer("weight")
    quantizer(normal(8, 3), training=True)
    larger = normal(8, 3, seed=1) * 5
    np.testing.assert_allclose(np.asarray(quantizer(larger, training=False)), symmetric(larger), rtol=1e-5)


def test_a_channel_of_zeros_stays_zero():
    w = normal(8, 3)
    w[:, 1] = 0
    rounded = np.asarray(FakeQuantizer("weight")(w))
    assert np.isfinite(rounded).all()
    assert (rounded[:, 1] == 0).all()


def test_tokens_have_a_range_each():
    x = normal(2, 5, 16) * np.array([0.01, 1, 100, 1, 1], "float32")[None, :, None]
    x[0, 3] = np.abs(x[0, 3]) + 1  # all above zero: the range still starts at zero
    np.testing.assert_allclose(np.asarray(FakeQuantizer("token")(x)), per_token(x), rtol=1e-4, atol=1e-7)
    zeros = np.asarray(FakeQuantizer("token")(np.zeros((1, 2, 4), "float32")))
    np.testing.assert_array_equal(zeros, np.zeros((1, 2, 4)))


def test_a_trained_range_moves_in_training_only():
    quantizer = FakeQuantizer("range")
    quantizer(normal(4, 4))
    quantizer.set_range(-1.0, 3.0)
    x = normal(50, 4) * 4
    np.testing.assert_allclose(np.asarray(quantizer(x)), asymmetric(x, -1.0, 3.0), atol=1e-5)
    assert quantizer.get_range() == (-1.0, 3.0)
    quantizer(x, training=True)
    low, high = quantizer.get_range()  # a moving average with decay 0.999
    np.testing.assert_allclose([low, high], [-0.999 + 0.001 * x.min(), 2.997 + 0.001 * x.max()], rtol=1e-4)


def test_keys_and_values_have_zero_point_zero():
    quantizer = FakeQuantizer("symmetric_range")
    quantizer(normal(4, 4))
    quantizer.set_range(-1.0, 2.54)
    low, high = quantizer.get_range()
    assert low == pytest.approx(-2.56)
    assert high == pytest.approx(2.54)
    quantizer(np.full((3, 4), 9.0, "float32"), training=True)
    low, high = quantizer.get_range()
    assert -128 - low / ((high - low) / 255) == pytest.approx(0, abs=1e-3)


def test_masked_scores_lie_a_little_below_the_others():
    """Eight is enough: e^-8 is less than half of the step 1/256 of an int8 softmax."""
    quantizer = FakeQuantizer("biased_range")
    scores = normal(4, 6)
    scores[:, 4:] -= 30000
    quantizer(scores)
    quantizer.set_range(*(f(quantizer.observed(scores)) for f in (np.min, np.max)))
    seen = scores[:, :4]
    low, high = seen.min() - 8, seen.max()
    np.testing.assert_allclose(quantizer.get_range(), (low, high), rtol=1e-5)
    rounded = np.asarray(quantizer(scores))
    np.testing.assert_allclose(rounded[:, :4], asymmetric(seen, low, high), atol=1e-5)
    np.testing.assert_allclose(rounded[:, 4:], low, atol=(high - low) / 255)
    # Training moves the range to what is seen, and keeps the room also where nothing is masked.
    quantizer(seen * 3, training=True)
    expected = 0.999 * np.array([low, high]) + 0.001 * np.array([3 * seen.min() - 8, 3 * seen.max()])
    np.testing.assert_allclose(quantizer.get_range(), expected, rtol=1e-4)


def test_tokens_that_are_zero_do_not_widen_the_range_of_one_over_the_deviation():
    quantizer = FakeQuantizer("inverse_range")
    inverse = np.array([[0.5], [2.0], [1000.0], [1.25]], "float32")
    quantizer(inverse)
    quantizer.set_range(*(f(quantizer.observed(inverse)) for f in (np.min, np.max)))
    assert quantizer.get_range() == (0.0, 2.0)
    quantizer(inverse * np.array([[2], [2], [1], [2]], "float32"), training=True)
    assert quantizer.get_range() == pytest.approx((0.0, 2 * 0.999 + 4 * 0.001))
    np.testing.assert_allclose(np.asarray(quantizer(inverse)), [[0.5], [2], [2], [1.25]], atol=0.005)
    small = np.array([[0.5], [1000.0]], "float32")
    np.testing.assert_allclose(
        np.asarray(quantizer(small)), [[0.5], [2.0]], atol=0.005
    )  # as LiteRT: the most


def test_pixels_pass_unchanged():
    pixels = np.arange(256, dtype="float32").reshape(1, 16, 16)
    np.testing.assert_array_equal(np.asarray(FakeQuantizer("pixels")(pixels)), pixels)


@pytest.mark.parametrize("kind", ["weight", "token", "range"])
def test_gradients_pass_straight_through(kind):
    quantizer = FakeQuantizer(kind)
    x = tf.Variable(normal(6, 4) * 0.5)
    quantizer(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(x, training=True) * tf.constant(normal(6, 4, seed=1)))
    np.testing.assert_allclose(tape.gradient(loss, x).numpy(), normal(6, 4, seed=1), rtol=1e-5)


def test_bfloat16_comes_back_as_bfloat16():
    x = keras.ops.cast(normal(2, 4), "bfloat16")
    assert FakeQuantizer("token")(x).dtype == tf.bfloat16


def test_tfmot_leaves_no_trace_in_the_environment():
    code = (
        "import os; from keras_vit.export.quantization.fake_quant import FakeQuantizer; "
        "FakeQuantizer('range');"
        "import keras, keras_cv; print(os.environ.get('TF_USE_LEGACY_KERAS'), keras.__version__[0])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.splitlines()[-1] == "None 3"


@pytest.fixture(scope="module")
def int8_matmul():
    """(kernel, the real LiteRT's run-time-quantized x @ kernel) for tokens [1, 7, 48]."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.quantizer import Quantizer

    kernel = normal(48, 32)
    spec = tf.TensorSpec((1, 7, 48), tf.float32)
    function = tf.function(lambda x: tf.matmul(x, kernel), input_signature=[spec])
    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    quantizer = Quantizer(bytearray(converter.convert()))
    quantizer.add_dynamic_config(".*", "FULLY_CONNECTED", num_bits=8)
    content = bytes(quantizer.quantize(enable_progress_report=False).quantized_model)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()

    def run(x):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return kernel, run


@pytest.mark.parametrize("shift", [0.0, 2.0, -5.0])
def test_token_and_weight_together_are_litert_arithmetic(int8_matmul, shift):
    kernel, run = int8_matmul
    x = normal(1, 7, 48, seed=3) * np.array([0.01, 1, 100, 1, 1, 3, 0], "float32")[None, :, None] + shift
    ours = FakeQuantizer("token")(x) @ FakeQuantizer("weight")(kernel)
    expected = run(x)
    scale = np.abs(expected).max(-1, keepdims=True) + 1e-6
    assert np.abs((np.asarray(ours) - expected) / scale).max() < 2e-6
    assert np.abs((x @ kernel - expected) / scale).max() > 1e-3, "and it does round"
