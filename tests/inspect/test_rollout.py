"""Attention maps and rollout against NumPy, and on a model that is made to look at one place."""

import numpy as np
import pytest
from random_weights import randomize
from scipy.special import softmax

from keras_vit import ViT
from keras_vit.inspect import attention_maps, attention_rollout, features
from keras_vit.layers import pad_images

SMALL = {"patch_size": (4, 2), "width": 12, "depth": 3, "num_heads": 3, "mlp_width": 20}


def small(image_size=(8, 6), num_classes=5, **options):
    return randomize(ViT("Nano/2", image_size, num_classes, **{**SMALL, **options}))


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype("float32")


def numpy_rollout(maps, first, merging=None):
    """Abnar and Zuidema 2020: the product of all blocks, [B, outputs, patches], whole matrices.

    `first` leading tokens are no patches; `merging` is (block, weights [B, tokens, N]) or None.
    """
    total = None
    for i, attention in enumerate(maps):
        tokens = attention.shape[-1]
        layer = np.stack([sum(example) / len(example) + np.eye(tokens) for example in attention])
        layer = np.stack([[row / sum(row) for row in example] for example in layer])
        if merging is not None and i == merging[0]:
            few, many = merging[1].shape[1:]
            merge = np.zeros((len(attention), first + few, first + many))
            merge[:, :first, :first] = np.eye(first)
            merge[:, first:, first:] = merging[1]
            layer = np.stack([a @ b for a, b in zip(layer, merge, strict=True)])
        total = layer if total is None else np.stack([a @ b for a, b in zip(layer, total, strict=True)])
    return total[:, :, first:]


def test_maps_are_the_softmax_of_the_captured_queries_and_keys():
    model, images = small(registers=2), pictures(2, 8, 6)
    maps = attention_maps(model, images)
    assert [m.shape for m in maps] == [
        (2, 3, 9, 9)
    ] * 3  # also of the last block, though [CLS] alone is pooled
    for i, probabilities in enumerate(maps):
        names = [f"block_{i}.attention.query", f"block_{i}.attention.key"]
        q, k = (v.reshape(2, 9, 3, 4).transpose(0, 2, 1, 3) for v in features(model, images, names).values())
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(probabilities, softmax(q @ k.swapaxes(2, 3) / 2, -1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "first", "rows"),
    [
        ({}, 1, [0]),
        ({"registers": 3}, 4, [0]),
        ({"distilled": True}, 2, [0, 1]),
        ({"pooling": "mean", "registers": 2}, 2, range(2, 8)),
        ({"pooling": None, "num_classes": None}, 0, range(6)),
        ({"attention": "relu"}, 1, [0]),
        ({"attention": "hard", "top_k": 2}, 1, [0]),
    ],
)
def test_rollout_equals_the_product_of_whole_matrices(options, first, rows):
    model, images = small(**options), pictures(2, 8, 6)
    expected = numpy_rollout(attention_maps(model, images), first)[:, list(rows)].mean(1)
    found = attention_rollout(model, images)
    assert found.shape == (2, 2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(2, 6), expected, atol=1e-6)
    total = found.sum((1, 2))
    assert np.all(total > 0.1) and np.all(total < 1 + 1e-6)
    if not first:
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_attention_pooling_weighs_the_patches_by_its_own_attention():
    model, images = small(pooling="attention", registers=1), pictures(2, 8, 6)
    weights = features(model, images, "pool.attention.probabilities")["pool.attention.probabilities"]
    flow = numpy_rollout(attention_maps(model, images), 1)[:, 1:]
    expected = np.einsum("bm,bmn->bn", weights.mean(1)[:, 0], flow)
    np.testing.assert_allclose(attention_rollout(model, images).reshape(2, 6), expected, atol=1e-6)


@pytest.mark.parametrize(("pooling", "block"), [("cls", 1), ("mean", 0), ("mean", 2)])
def test_a_merger_mixes_by_its_weights(pooling, block):
    model, images = small(pooling=pooling, merge=(block, 2), position="coordinates"), pictures(2, 8, 6)
    first = int(pooling == "cls")
    before = "positions" if block == 0 else f"block_{block - 1}"
    values = features(model, images, [before, "merger"])
    x = values[before][:, first:].astype("float64")
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normed = normed * np.asarray(model.merger.norm.scale) + np.asarray(model.merger.norm.shift)
    weights = softmax(np.asarray(model.merger.queries) @ normed.swapaxes(1, 2), -1)
    np.testing.assert_allclose(weights @ x, values["merger"], atol=1e-5)

    maps = attention_maps(model, images)
    assert [m.shape[-1] for m in maps] == [first + (6 if i < block else 2) for i in range(3)]
    flow = numpy_rollout(maps, first, (block, weights))
    expected = flow[:, 0] if first else flow.mean(1)
    np.testing.assert_allclose(attention_rollout(model, images).reshape(2, 6), expected, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}, {"pooling": "attention"}, {"merge": (1, 2)}])
def test_a_padded_picture_has_the_rollout_that_it_has_alone(options):
    model = small(position="sincos2d", patch_mask=True, **options)
    one, two = pictures(4, 6), pictures(8, 4, seed=2)
    both = attention_rollout(model, pad_images([one, two], (4, 2)))
    assert both.shape == (2, 2, 3)
    np.testing.assert_allclose(both[0, :1], attention_rollout(model, one[None])[0], atol=1e-6)
    np.testing.assert_allclose(both[1, :, :2], attention_rollout(model, {"image": two[None]})[0], atol=1e-6)
    assert np.all(both[0, 1] == 0) and np.all(both[1, :, 2] == 0)
    nothing = {"image": one[None], "patch_mask": np.zeros((1, 3), "float32")}
    assert np.all(attention_rollout(model, nothing) == 0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_what_a_model_is_made_to_look_at_lights_up(looker, pooling, place):
    model = looker((12, 24), (4, 8), pooling=pooling)
    row, column = place
    images = np.full((1, 12, 24, 3), -0.5, "float32")
    images[:, 4 * row : 4 * row + 4, 8 * column : 8 * column + 8] = 1.0
    rollout = attention_rollout(model, images)[0]
    assert np.unravel_index(rollout.argmax(), rollout.shape) == place
    others = np.delete(rollout.ravel(), 3 * row + column)
    # [CLS] keeps (1/2)^2 to itself and takes the rest from the bright patch; a mean starts even.
    assert rollout[place] == pytest.approx(0.75 if pooling == "cls" else 0.75 + 0.25 / 9, abs=1e-3)
    assert others.max() < (1e-3 if pooling == "cls" else 0.25 / 9 + 1e-3)
