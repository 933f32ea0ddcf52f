"""`MaskTokens` and `PatchDropout`: how many, which, and when."""

import keras
import numpy as np
import pytest
from harness import array, built, gradients, noise, values

from keras_vit.errors import InputError
from keras_vit.layers import (
    Attention,
    MaskTokens,
    PatchDropout,
    RelativePositions,
    RotaryPositions,
)
from keras_vit.layers.dropping import take_positions, take_tokens

TOKENS = noise(4, 10, 8)
MASK = np.arange(10) < np.array([[10], [7], [1], [0]])
MASK[1] = MASK[1][::-1]  # real tokens need not come first


def covering(ratio, seed=1):
    return built(MaskTokens(ratio, seed=seed), TOKENS, seed=seed)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ratio", [0, 0.25, 0.5, 0.8, 1])
def test_exactly_the_share_of_the_real_tokens_is_covered(ratio, masked):
    layer, mask = covering(ratio), MASK if masked else None
    tokens, covered = values(layer, TOKENS, mask=mask, training=True)
    real = MASK.sum(1) if masked else [10] * 4
    assert covered.dtype == bool
    np.testing.assert_array_equal(covered.sum(1), [round(ratio * n) for n in real])
    if masked:
        assert not (covered & ~MASK).any()
    np.testing.assert_array_equal(tokens[~covered], TOKENS[~covered])
    np.testing.assert_array_equal(tokens[covered], np.broadcast_to(array(layer.token)[0], (covered.sum(), 8)))


def test_a_float_mask_counts_as_well():
    one, two = (
        values(covering(0.5), TOKENS, mask=mask, training=True)[1] for mask in (MASK, MASK.astype("float32"))
    )
    np.testing.assert_array_equal(one, two)


def test_every_token_is_covered_equally_often_and_examples_differ():
    many = np.zeros((3000, 10, 8), "float32")
    mask = np.arange(10) < 8 * np.ones((3000, 1))
    _, covered = values(covering(0.5), many, mask=mask, training=True)
    np.testing.assert_array_equal(covered.sum(1), 4)
    np.testing.assert_allclose(covered.mean(0)[:8], 0.5, atol=5 * 0.5 / np.sqrt(3000))
    assert len({tuple(row) for row in covered}) == 70  # 8 over 4: all of them appear


def test_the_seed_decides():
    draws = []
    for seed in (1, 1, 2):
        layer = MaskTokens(0.5, seed=seed)
        layer.build(TOKENS.shape)
        draws.append(values(layer, TOKENS, training=True)[1])
        again = values(layer, TOKENS, training=True)[1]
        assert (again != draws[-1]).any(), "the next call draws anew"
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_nothing_is_covered_at_inference():
    for training in (False, None):
        tokens, covered = values(covering(1.0), TOKENS, training=training)
        np.testing.assert_array_equal(tokens, TOKENS)
        assert not covered.any() and covered.shape == (4, 10)


def test_half_precision_keeps_the_type():
    layer = MaskTokens(0.5, dtype="mixed_bfloat16")
    tokens, _ = layer(TOKENS, training=True)
    assert keras.backend.standardize_dtype(tokens.dtype) == "bfloat16"


@pytest.mark.needs_gradients
def test_the_mask_token_learns_and_covered_tokens_do_not():
    _, covered = values(covering(0.5), TOKENS, mask=MASK, training=True)
    token, tokens = gradients(covering(0.5), TOKENS, mask=MASK, training=True)
    direction = noise(*TOKENS.shape, seed=90)
    np.testing.assert_allclose(token[0, 0], direction[covered].sum(0), atol=1e-5)
    np.testing.assert_array_equal(tokens, np.where(covered[..., None], 0, direction))


# Patch dropout.


def keeping(rate, prefix=2, seed=1):
    return PatchDropout(rate, prefix=prefix, seed=seed)


@pytest.mark.parametrize(("rate", "kept"), [(0.25, 6), (0.5, 4), (0.9, 1), (0.99, 1)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_the_prefix_and_a_share_of_the_patches_stay_in_order(rate, kept, prefix):
    tokens = noise(50, 8 + prefix, 3)
    keep = values(built(keeping(rate, prefix), tokens), tokens, training=True)
    assert keep.dtype == np.int32 and keep.shape == (50, prefix + kept)
    np.testing.assert_array_equal(keep[:, :prefix], np.broadcast_to(np.arange(prefix), (50, prefix)))
    assert (np.diff(keep, axis=1) > 0).all(), "in rising order, none twice"
    assert keep.max() == 7 + prefix and keep[:, prefix:].min() == prefix
    assert len({tuple(row) for row in keep}) > 5, "examples differ"


def test_every_patch_stays_equally_often():
    tokens = np.zeros((4000, 9, 1), "float32")
    keep = values(built(keeping(0.5, 1), tokens), tokens, training=True)
    share = np.bincount(keep.ravel(), minlength=9) / 4000
    assert share[0] == 1
    np.testing.assert_allclose(share[1:], 0.5, atol=5 * 0.5 / np.sqrt(4000))


def test_real_tokens_stay_first():
    mask = np.ones((4, 10), bool)
    mask[1, 2:8] = False  # two real patches: both stay among the four that are kept
    mask[2, 2:] = False
    mask[3, [3, 5]] = False
    for seed in range(5):
        keep = values(built(keeping(0.5), TOKENS, seed=seed), TOKENS, mask=mask, training=True)
        assert keep.shape == (4, 6)
        assert {8, 9} <= set(keep[1])
        assert not {3, 5} & set(keep[3]), "six real patches are enough for four"
        real = array(take_tokens(mask, keep))
        np.testing.assert_array_equal(real.sum(1), [6, 4, 2, 6])


def test_nothing_is_left_out_at_inference_or_at_rate_0():
    assert keeping(0.5)(TOKENS) is None
    assert keeping(0.5)(TOKENS, training=False) is None
    assert keeping(0.0)(TOKENS, training=True) is None


def test_tokens_and_masks_are_taken():
    keep = np.array([[0, 3], [1, 2], [0, 1], [5, 9]], "int32")
    expected = np.stack([x[k] for x, k in zip(TOKENS, keep, strict=True)])
    np.testing.assert_array_equal(array(take_tokens(TOKENS, keep)), expected)
    expected = np.stack([x[k] for x, k in zip(MASK, keep, strict=True)])
    np.testing.assert_array_equal(array(take_tokens(MASK, keep)), expected)


def test_positions_are_taken_for_each_example():
    keep = np.array([[0, 1, 4], [0, 2, 3]], "int32")
    relative = RelativePositions((2, 3), 2)
    relative.build((None, 6, 8))
    relative.table.assign(noise(3, 5, 2))
    positions = {
        **RotaryPositions(4).for_attention((2, 3), prefix=1),
        **relative.for_attention((2, 3), prefix=1),
    }
    taken = take_positions(positions, keep)
    assert set(taken) == {"rotary", "bias"} and take_positions({}, keep) == {}
    bias = array(positions["bias"])
    assert array(taken["bias"]).shape == (2, 2, 3, 3)
    for b, k in enumerate(keep):
        for whole, part in zip(positions["rotary"], taken["rotary"], strict=True):
            np.testing.assert_array_equal(array(part)[b], whole[k])
        np.testing.assert_array_equal(array(taken["bias"])[b], bias[:, k][:, :, k])


@pytest.mark.parametrize("kind", ["rotary", "bias"])
def test_attention_among_the_kept_is_attention_with_the_others_masked(kind):
    """What is left out may as well be there and not be seen."""
    tokens, keep = noise(2, 7, 8), np.array([[0, 1, 4, 6], [0, 2, 3, 5]], "int32")
    relative = RelativePositions((2, 3), 2)
    relative.build((None, 6, 8))
    relative.table.assign(3 * noise(3, 5, 2))
    positions = (RotaryPositions(4) if kind == "rotary" else relative).for_attention((2, 3), prefix=1)
    layer = built(Attention(2), tokens, tokens)
    mask = np.zeros((2, 7), bool)
    np.put_along_axis(mask, keep, True, axis=1)
    whole = values(layer, tokens, tokens, mask=mask, **positions)
    few = array(take_tokens(tokens, keep))
    part = values(layer, few, few, **take_positions(positions, keep))
    np.testing.assert_allclose(part, np.take_along_axis(whole, keep[..., None], axis=1), atol=2e-6)
    assert np.abs(part - values(layer, few, few)).max() > 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchDropout(1.0), r"patch dropout must be in \[0, 1\), not 1.0"),
        (lambda: PatchDropout(-0.5), r"patch dropout must be in \[0, 1\), not -0.5"),
        (lambda: PatchDropout("half"), r"patch dropout must be in \[0, 1\), not 'half'"),
        (lambda: PatchDropout(0.5, prefix=-1), "prefix must be a non-negative integer, not -1"),
        (lambda: MaskTokens(1.5), r"ratio must be in \[0, 1\], not 1.5"),
        (lambda: MaskTokens(-0.1), r"ratio must be in \[0, 1\], not -0.1"),
        (lambda: MaskTokens(True), r"ratio must be in \[0, 1\], not True"),
        (lambda: MaskTokens(float("nan")), r"ratio must be in \[0, 1\], not nan"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("shape", [(4, 9), (4, 10, 1)])
@pytest.mark.parametrize("layer", [lambda: PatchDropout(0.5), lambda: MaskTokens(0.5)])
def test_a_mask_of_another_shape_is_refused(layer, shape):
    with pytest.raises(InputError, match=r"mask .*(4, 9|4, 10, 1).* 10"):
        layer()(TOKENS, mask=np.ones(shape, bool), training=True)
