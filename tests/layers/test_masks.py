"""The functions that make masks, against loops."""

import numpy as np
import pytest
from harness import array, noise

from keras_vit.errors import InputError
from keras_vit.layers import (
    block_mask,
    causal_mask,
    combine,
    grid_mask,
    grid_sizes,
    pad_images,
    padding_mask,
)
from keras_vit.layers.masks import as_mask


def test_padding():
    lengths = [3, 0, 5, 1]
    expected = [[i < length for i in range(5)] for length in lengths]
    for dtype in ("int32", "int64", "float32"):
        mask = array(padding_mask(np.array(lengths, dtype), 5))
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)


SIZES = [(2, 3), (3, 4), (1, 1), (3, 1), (1, 4), (0, 0)]


def test_a_grid_is_real_in_its_top_left():
    expected = [[r < rows and c < columns for r in range(3) for c in range(4)] for rows, columns in SIZES]
    mask = array(grid_mask(np.array(SIZES, "int32"), (3, 4)))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_the_sizes_of_a_grid_mask_are_those_it_was_made_from(dtype):
    mask = array(grid_mask(np.array(SIZES, "int32"), (3, 4))).astype(dtype)
    sizes = array(grid_sizes(mask, (3, 4)))
    assert sizes.dtype == np.int32
    np.testing.assert_array_equal(sizes, SIZES)


def test_sizes_reach_to_the_last_real_patch_also_across_holes():
    cells = np.zeros((1, 3, 4), bool)
    cells[0, 1, 0] = cells[0, 0, 2] = True
    np.testing.assert_array_equal(array(grid_sizes(cells.reshape(1, 12), (3, 4))), [[2, 3]])


def test_causal():
    expected = [[[key <= query for key in range(4)] for query in range(4)]]
    np.testing.assert_array_equal(array(causal_mask(4)), expected)
    assert array(causal_mask(1)).tolist() == [[[True]]]


QUERY_GROUPS, KEY_GROUPS = np.array([[0, 1, 2], [2, 2, 0]]), np.array([[0, 0, 1, 2], [1, 2, 1, 0]])


def test_queries_see_their_own_group():
    expected = [[[q == k for k in keys] for q in queries] for queries, keys in zip(QUERY_GROUPS, KEY_GROUPS)]  # noqa: B905
    np.testing.assert_array_equal(array(block_mask(QUERY_GROUPS, KEY_GROUPS)), expected)
    packed = array(block_mask(np.array([[0, 0, 1]])))
    np.testing.assert_array_equal(packed, [[[1, 1, 0], [1, 1, 0], [0, 0, 1]]])


def test_queries_see_the_groups_that_they_may():
    allowed = [[True, False, True], [True, True, False], [False, False, False]]
    mask = array(block_mask(QUERY_GROUPS, KEY_GROUPS, allowed))
    assert mask.dtype == bool
    for b in range(2):
        for i in range(3):
            for j in range(4):
                assert mask[b, i, j] == allowed[QUERY_GROUPS[b, i]][KEY_GROUPS[b, j]]


def test_combining_allows_what_all_allow():
    keys = np.array([[1, 1, 0, 1], [1, 0, 1, 1]], bool)
    pairs = np.random.default_rng(0).random((2, 4, 4)) < 0.7
    causal = causal_mask(4)
    joined = array(combine(None, keys.astype("float32"), causal, pairs.astype("int32")))
    for b in range(2):
        for i in range(4):
            for j in range(4):
                assert joined[b, i, j] == (keys[b, j] and j <= i and pairs[b, i, j])
    assert combine() is None and combine(None, None) is None
    np.testing.assert_array_equal(array(combine(keys)), keys[:, None])
    np.testing.assert_array_equal(array(combine(None, causal)), causal)


def test_numbers_above_a_half_are_true():
    np.testing.assert_array_equal(array(as_mask(np.array([0.0, 0.4, 0.6, 1.0]))), [False, False, True, True])
    np.testing.assert_array_equal(array(as_mask(np.array([0, 1], "uint8"))), [False, True])


def test_pictures_of_several_sizes_stand_in_the_top_left():
    images = [noise(8, 6, 3), noise(4, 9, 3, seed=1), noise(4, 3, 3, seed=2).astype("float64")]
    batch = pad_images(images, (4, 3))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((3, 8, 9, 3), "float32"),
        "patch_mask": ((3, 6), "float32"),
    }
    for image, canvas, mask in zip(images, batch["image"], batch["patch_mask"], strict=True):
        h, w, _ = image.shape
        np.testing.assert_array_equal(canvas[:h, :w], image.astype("float32"))
        assert not canvas[h:].any() and not canvas[:, w:].any()
        expected = [[r < h // 4 and c < w // 3 for c in range(3)] for r in range(2)]
        np.testing.assert_array_equal(mask.reshape(2, 3), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pad_images([], 4), "no pictures given"),
        (lambda: pad_images([noise(8, 6, 3)], 4), r"multiples of the patch 4x4, not \[8, 6, 3\]"),
        (lambda: pad_images([noise(8, 8)], 4), r"must be \[height, width, channels\] .* not \[8, 8\]"),
        (lambda: pad_images([noise(0, 8, 3)], 4), r"not \[0, 8, 3\]"),
        (lambda: pad_images([noise(4, 4, 3), noise(4, 4, 1)], 4), "equally many channels, not 3 and 1"),
        (lambda: pad_images([noise(4, 4, 3)], 0), "patch_size must be a positive integer"),
        (lambda: combine(noise(2, 2, 2, 2)), r"not \[2, 2, 2, 2\]"),
        (lambda: combine(noise(2)), r"\[batch, keys\] or \[batch, queries, keys\], not \[2\]"),
        (lambda: block_mask([[0]], allowed=[[True, False]]), r"square table .* not \[1, 2\]"),
        (lambda: block_mask([[0]], allowed=[True]), r"square table .* not \[1\]"),
    ],
)
def test_what_does_not_suit_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
