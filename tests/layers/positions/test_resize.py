"""Resizing against JAX and Pillow, and by its identities."""

import jax
import numpy as np
import pytest
from PIL import Image

from keras_vit.errors import InputError
from keras_vit.layers.positions.resize import resize_matrix, resize_patch_kernel, resize_positions

SIZES = [(7, 7), (7, 14), (14, 9), (24, 5), (5, 24), (1, 4), (4, 1), (3, 2)]
METHODS = {"bicubic": ("cubic", Image.Resampling.BICUBIC), "bilinear": ("linear", Image.Resampling.BILINEAR)}


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_matrix_is_the_resize_of_jax_and_pillow(old, new, method):
    x = noise(old, 6)
    matrix = resize_matrix(old, new, method)
    answer = matrix @ x
    assert matrix.shape == (new, old)
    assert matrix.dtype == "float64"
    jax_method, pillow_filter = METHODS[method]
    expected = jax.image.resize(x, (new, 6), jax_method, antialias=True)
    np.testing.assert_allclose(answer, np.asarray(expected), atol=2e-6)
    picture = Image.fromarray(x).resize((6, new), pillow_filter)
    np.testing.assert_allclose(answer, np.asarray(picture), atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_the_identity_and_a_constant_stays(method):
    np.testing.assert_allclose(resize_matrix(9, 9, method), np.eye(9), atol=1e-15)
    np.testing.assert_allclose(resize_matrix(9, 4, method).sum(axis=1), 1.0, atol=1e-12)


def test_the_shared_matrix_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        resize_matrix(3, 5)[0, 0] = 1.0


def test_a_position_table_is_resized_like_an_image_and_keeps_its_prefix():
    table = noise(1, 2 + 4 * 6, 3)
    answer = resize_positions(table, (4, 6), (7, 5), prefix=2)
    assert answer.shape == (1, 2 + 7 * 5, 3)
    assert answer.dtype == "float32"
    np.testing.assert_array_equal(answer[0, :2], table[0, :2])
    image = table[0, 2:].reshape(4, 6, 3)
    expected = jax.image.resize(image, (7, 5, 3), "cubic", antialias=True)
    np.testing.assert_allclose(answer[0, 2:].reshape(7, 5, 3), np.asarray(expected), atol=3e-6)
    for channel in range(3):
        picture = Image.fromarray(image[..., channel]).resize((5, 7), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(answer[0, 2:, channel].reshape(7, 5), np.asarray(picture), atol=3e-6)


def test_a_table_of_rank_2_keeps_its_rank():
    table = noise(1, 1 + 6, 3)
    answer = resize_positions(table[0], (2, 3), (3, 2), prefix=1)
    np.testing.assert_array_equal(answer, resize_positions(table, (2, 3), (3, 2), prefix=1)[0])


def test_the_same_grid_gives_an_equal_table_of_its_own():
    table = noise(1, 6, 3)
    answer = resize_positions(table, (2, 3), (2, 3))
    np.testing.assert_array_equal(answer, table)
    assert not np.shares_memory(answer, table)


@pytest.mark.parametrize("away", [(20, 24), (13, 17)])
def test_a_smooth_table_comes_back_from_another_grid(away):
    y, x = np.mgrid[:10, :12]
    smooth = np.stack([np.cos(np.pi * (y + 0.5) / 10), np.cos(np.pi * (x + 0.5) / 12)], axis=-1)
    table = smooth.reshape(1, 120, 2).astype("float32")
    back = resize_positions(resize_positions(table, (10, 12), away), away, (10, 12))
    np.testing.assert_allclose(back, table, atol=0.02)
    # The same number of tokens in another shape is another table: counts cannot tell them apart.
    assert np.abs(resize_positions(table, (10, 12), (12, 10)) - table).max() > 0.2


def test_a_table_that_does_not_fit_its_grid_is_refused():
    with pytest.raises(InputError, match=r"table of 17 rows does not fit 0 .* 4x4, which make 16"):
        resize_positions(noise(1, 17, 3), (4, 4), (8, 8))
    with pytest.raises(InputError, match="a count says nothing about the shape"):
        resize_positions(noise(1, 16, 3), 16, 64)
    with pytest.raises(InputError, match=r"not \[2, 16, 3\]"):
        resize_positions(noise(2, 16, 3), (4, 4), (8, 8))
    with pytest.raises(InputError, match=r"unknown resize method 'bicubik'.*Did you mean 'bicubic'"):
        resize_matrix(3, 4, "bicubik")
    with pytest.raises(InputError, match="3 samples cannot become one of 0"):
        resize_matrix(3, 0)


def seen(patch, kernel):
    return np.einsum("hwc,hwcd->d", patch, kernel)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("new_size", [(8, 8), (5, 9), (4, 6)])
def test_a_larger_patch_kernel_sees_in_a_larger_patch_what_the_old_one_saw(new_size, method):
    kernel, patch = noise(4, 6, 3, 5), np.random.default_rng(1).normal(size=(4, 6, 3))
    new = resize_patch_kernel(kernel, new_size, method)
    assert new.shape == (*new_size, 3, 5)
    assert new.dtype == "float32"
    jax_method, _ = METHODS[method]
    larger = jax.image.resize(patch.astype("float32"), (*new_size, 3), jax_method, antialias=True)
    np.testing.assert_allclose(seen(np.asarray(larger), new), seen(patch, kernel), atol=5e-5)


def test_a_smaller_patch_kernel_is_the_least_squares_one():
    kernel = noise(6, 4, 2, 3)
    new = resize_patch_kernel(kernel, (3, 2))
    resize = np.kron(resize_matrix(6, 3, "bilinear"), resize_matrix(4, 2, "bilinear"))  # B, on h * w pixels
    expected = np.linalg.lstsq(resize.T, kernel.reshape(24, 6), rcond=None)[0]
    np.testing.assert_allclose(new.reshape(6, 6), expected, atol=1e-5)


def test_a_flattened_patch_kernel_is_refused():
    with pytest.raises(InputError, match=r"not \[48, 5\]: reshape it first"):
        resize_patch_kernel(noise(48, 5), (8, 8))
