"""Each layer against a reference that is not itself, and the shared promises of all of them."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.errors import InputError
from keras_vit.layers import (
    Attention,
    EncoderBlock,
    LayerNorm,
    LearnedPositions,
    Linear,
    Mlp,
    Patches,
    Pooling,
)

LAYERS = [
    (lambda: Linear(5, use_bias=False), 1),
    (lambda: LayerNorm(epsilon=1e-3, affine=False), 1),
    (lambda: LayerNorm(), 1),
    (lambda: LearnedPositions(), 1),
    (lambda: Mlp(7, dropout=0.5), 1),
    (lambda: EncoderBlock(2, 9, folded=True), 1),
    (lambda: Attention(2, folded=True), 2),
    (lambda: Attention(4), 2),
    (lambda: Pooling("cls"), 1),
    (lambda: Pooling("mean"), 1),
    (lambda: Patches((2, 3), 6, use_bias=False), "image"),
]


def inputs_for(kind):
    random = np.random.default_rng(0)
    if kind == "image":
        return (random.normal(size=(2, 4, 6, 3)).astype("float32"),)
    x = random.normal(size=(2, 5, 8)).astype("float32")
    return (x,) * kind


@pytest.mark.parametrize(("make", "kind"), LAYERS)
def test_a_layer_rebuilt_from_its_config_computes_the_same(make, kind):
    inputs, layer = inputs_for(kind), make()
    expected = np.asarray(layer(*inputs))
    keras.config.set_floatx("float64")  # a global setting must not reach a layer that has its own
    try:
        twin = type(layer).from_config(layer.get_config())
        twin(*inputs)
    finally:
        keras.config.set_floatx("float32")
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.asarray(twin(*inputs)), expected)
    assert twin.get_config() == layer.get_config()


@pytest.mark.parametrize(("make", "kind"), LAYERS)
def test_the_announced_shape_is_the_shape(make, kind):
    inputs, layer = inputs_for(kind), make()
    expected = tuple(layer(*inputs).shape)
    assert tuple(layer.compute_output_shape(*[x.shape for x in inputs])) == expected


@pytest.mark.parametrize(("make", "kind"), LAYERS)
def test_half_precision_stays_close(make, kind):
    inputs, layer = inputs_for(kind), make()
    expected = np.asarray(layer(*inputs))
    half = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    half(*inputs)
    half.set_weights(layer.get_weights())
    answer = half(*inputs)
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16"
    np.testing.assert_allclose(np.asarray(ops.cast(answer, "float32")), expected, atol=0.06)


def test_patches_are_a_strided_convolution():
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")
    layer = Patches((4, 2), 5)
    tokens = np.asarray(layer(images))
    kernel = np.asarray(layer.projection.kernel).reshape(4, 2, 3, 5)
    expected = ops.conv(images, kernel, strides=(4, 2), padding="valid", data_format="channels_last")
    np.testing.assert_allclose(tokens, np.asarray(expected).reshape(2, 12, 5), atol=1e-5)


def test_layer_norm_is_the_formula_also_far_from_zero():
    x = (np.random.default_rng(0).normal(size=(3, 50)) + 300).astype("float32")
    layer = LayerNorm()
    answer = np.asarray(layer(x))
    exact = x.astype("float64")
    expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(answer, expected, atol=2e-4)


def test_attention_does_not_care_about_the_order_of_tokens():
    q, x = inputs_for(2)
    layer = Attention(2)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(np.asarray(layer(q, x)), np.asarray(layer(q, x[:, order])), atol=1e-6)
    moved = np.asarray(layer(q[:, order], x))
    np.testing.assert_allclose(moved, np.asarray(layer(q, x))[:, order], atol=1e-6)


def test_attention_with_one_token_returns_its_value():
    q, x = inputs_for(2)
    layer = Attention(2)
    one = x[:, :1]
    expected = layer.output_projection(layer.value(one)) if layer(q, one) is not None else None
    np.testing.assert_allclose(np.asarray(layer(q, one)), np.repeat(np.asarray(expected), 5, 1), atol=1e-6)


def test_attention_survives_huge_scores():
    x = np.full((1, 3, 8), 1e4, "float32")
    layer = Attention(2)
    assert np.isfinite(np.asarray(layer(x, x))).all()


def test_only_the_rows_that_are_asked_for_are_computed_and_they_are_the_same():
    (x,) = inputs_for(1)
    block = EncoderBlock(2, 9)
    np.testing.assert_allclose(np.asarray(block(x, rows=2)), np.asarray(block(x))[:, :2], atol=1e-6)


def test_dropout_is_off_at_inference_and_on_in_training():
    (x,) = inputs_for(1)
    layer, plain = Mlp(64, dropout=0.5), Mlp(64)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights()[: len(plain.weights)])
    np.testing.assert_array_equal(np.asarray(layer(x)), np.asarray(plain(x)))
    assert np.abs(np.asarray(layer(x, training=True)) - np.asarray(plain(x))).max() > 0.01


def test_pooling():
    (x,) = inputs_for(1)
    np.testing.assert_array_equal(np.asarray(Pooling("cls")(x)), x[:, 0])
    np.testing.assert_allclose(np.asarray(Pooling("mean")(x)), x.mean(1), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(Pooling(None)(x)), x)
    with pytest.raises(InputError, match="unknown pooling 'max'"):
        Pooling("max")


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="tokens of width 8 cannot be split into 3 equal heads"):
        Attention(3)(*inputs_for(2))
