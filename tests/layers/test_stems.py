"""The convolutional stems against `Patches` and NumPy loops. Masks and errors: test_patches.py."""

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.layers.patches import Patches
from keras_vit.layers.stems import CompactStem, ConvPatches, OverlappingPatches, stem_for


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def windows(x, size, stride, padding, value=0.0):
    """[B, rows, columns, *size, C]: every window of the padded x, one by one."""
    (h, w), (top, left) = size, padding
    x = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=value)
    down, right = range(0, x.shape[1] - h + 1, stride[0]), range(0, x.shape[2] - w + 1, stride[1])
    return np.stack([np.stack([x[:, i : i + h, j : j + w] for j in right], 1) for i in down], 1)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("patch", [(4, 2), (2, 3)])
def test_the_convolution_and_the_matrix_product_are_one_function(patch, use_bias):
    images = data((2, 8, 6, 3))
    matmul, convolution = Patches(patch, 5, use_bias), ConvPatches(patch, 5, use_bias)
    matmul(images), convolution(images)
    assert [w.path.split("/", 1)[1] for w in matmul.weights] == [
        w.path.split("/", 1)[1] for w in convolution.weights
    ]
    convolution.set_weights(matmul.get_weights())
    np.testing.assert_allclose(np.asarray(convolution(images)), np.asarray(matmul(images)), atol=1e-5)


def test_pixels_of_eight_bits_are_taken():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), "uint8")
    for stem in (ConvPatches(4, 5), OverlappingPatches(4, 5), CompactStem(4, 5, hidden=6)):
        expected = np.asarray(stem(images.astype("float32")))
        np.testing.assert_array_equal(np.asarray(stem(images)), expected)


def test_the_hooks_of_quantization_are_called_and_used():
    images, layer = data((2, 8, 6, 3)), ConvPatches(2, 5)
    layer(images)
    scales = {"input": 2.0, "kernel": 3.0, "output": 5.0}
    expected = 30 * np.asarray(layer(images))
    layer.projection.fake_quantize = lambda role, x: x * scales[role]
    np.testing.assert_allclose(np.asarray(layer(images)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch", [(4, 2), (1, 3)])
def test_overlapping_patches_are_the_padded_convolution_of_pvt(patch):
    h, w = patch
    images, layer = data((2, 2 * h, 3 * w, 3)), OverlappingPatches(patch, 5)
    layer(images)
    kernel, bias = layer.get_weights()[0], data((5,), 1)
    layer.set_weights([kernel, bias])
    assert kernel.shape == ((2 * h - 1) * (2 * w - 1) * 3, 5)
    x = windows(images, (2 * h - 1, 2 * w - 1), patch, (h - 1, w - 1))
    assert x.shape[1:3] == (2, 3)  # the padding of all four sides gives no further token
    expected = x.reshape(2, 6, -1) @ kernel + bias
    np.testing.assert_allclose(np.asarray(layer(images)), expected, atol=1e-5)


@pytest.mark.parametrize(("patch", "size"), [(2, (6, 2)), (4, (8, 12))])
def test_the_compact_stem_is_convolution_relu_and_max_pooling(patch, size):
    images, layer = data((2, *size, 3)), CompactStem(patch, 5, hidden=6)
    tokens = np.asarray(layer(images))
    kernels = layer.get_weights()
    widths = [6] * (len(kernels) - 1) + [5]
    assert [k.shape[-1] for k in kernels] == widths and 2 ** len(kernels) == patch
    x = images
    for kernel in kernels:
        x = windows(x, (3, 3), (1, 1), (1, 1))
        x = np.maximum(x.reshape(*x.shape[:3], -1) @ kernel.reshape(-1, kernel.shape[-1]), 0.0)
        x = windows(x, (3, 3), (2, 2), (1, 1), value=-np.inf).max(axis=(3, 4))
    np.testing.assert_allclose(tokens, x.reshape(tokens.shape), atol=1e-5)


def test_stems_by_name():
    for name, kind in (("linear", Patches), ("conv", ConvPatches), ("overlapping", OverlappingPatches)):
        stem = stem_for(name, (4, 2), 5, use_bias=False, name="patches")
        assert type(stem) is kind and stem.patch_size == (4, 2) and stem.width == 5
        assert stem.use_bias is False and stem.name == "patches"
    compact = stem_for("compact", 4, 5, use_bias=False, hidden=9)
    assert isinstance(compact, CompactStem) and compact.hidden == 9
    with pytest.raises(InputError, match=r"unknown stem 'cnv': .*linear, conv, .* Did you mean 'conv'"):
        stem_for("cnv", 4, 5)


@pytest.mark.parametrize(("patch", "near"), [(6, 8), (1, 2), ((4, 8), 8), (12, 16)])
def test_the_compact_stem_refuses_other_patches(patch, near):
    with pytest.raises(InputError, match=f"square and a power of two.* patch_size={near}"):
        CompactStem(patch, 5)


def test_the_compact_stem_needs_hidden_channels():
    with pytest.raises(InputError, match="hidden must be a positive integer, not 0"):
        CompactStem(4, 5, hidden=0)
