"""`Pooling`, `AttentionPooling` and `PatchMerger` against NumPy."""

import numpy as np
import pytest
from harness import array, built, noise, values
from references import attention, mlp, norm
from scipy.special import softmax

from keras_vit.errors import InputError
from keras_vit.layers import AttentionPooling, PatchMerger, Pooling

TOKENS = noise(3, 6, 8)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_the_mean_is_of_the_real_patches(prefix):
    layer, patches, real = Pooling("mean", prefix), TOKENS[:, prefix:], MASK[:, prefix:]
    np.testing.assert_allclose(values(layer, TOKENS), patches.mean(1), atol=1e-6)
    expected = [x[m].mean(0) if m.any() else np.zeros(8) for x, m in zip(patches, real, strict=True)]
    assert prefix == 0 or not real[2].any()
    np.testing.assert_allclose(values(layer, TOKENS, mask=MASK), expected, atol=1e-6)
    np.testing.assert_allclose(values(layer, TOKENS, mask=MASK.astype("int32")), expected, atol=1e-6)


def test_the_mean_of_many_tokens_in_half_precision_does_not_overflow():
    tokens = np.full((1, 4000, 4), 30.0, "float32")
    layer = Pooling("mean", dtype="mixed_float16")
    np.testing.assert_array_equal(values(layer, tokens, mask=np.ones((1, 4000), bool)), [[30.0] * 4])


@pytest.mark.parametrize("mask", [None, MASK])
def test_cls_is_the_first_token(mask):
    np.testing.assert_array_equal(values(Pooling("cls", 2), TOKENS, mask=mask), TOKENS[:, 0])


@pytest.mark.parametrize("prefix", [0, 2])
def test_none_keeps_the_patches_and_zeros_the_others(prefix):
    layer = Pooling(None, prefix)
    np.testing.assert_array_equal(values(layer, TOKENS), TOKENS[:, prefix:])
    expected = (TOKENS * MASK[..., None])[:, prefix:]
    np.testing.assert_array_equal(values(layer, TOKENS, mask=MASK), expected)


def attention_pooling(layer, tokens, mask):
    probe = np.repeat(array(layer.probe), len(tokens), axis=0)
    y = attention(layer.attention, probe, tokens[:, layer.prefix :], mask[:, layer.prefix :])[0][:, 0]
    return y + mlp(layer.mlp, norm(layer.norm, y))


@pytest.mark.parametrize("prefix", [0, 1])
def test_attention_pooling_is_the_formula(prefix):
    layer = built(AttentionPooling(2, 9, prefix=prefix, epsilon=1e-3), TOKENS)
    everyone = np.ones_like(MASK)
    np.testing.assert_allclose(values(layer, TOKENS), attention_pooling(layer, TOKENS, everyone), atol=5e-6)
    expected = attention_pooling(layer, TOKENS, MASK)  # with a prefix nothing is real in the last example
    np.testing.assert_allclose(values(layer, TOKENS, mask=MASK), expected, atol=5e-6)


@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_the_merger_is_the_formula(tokens):
    layer = built(PatchMerger(tokens, epsilon=1e-3), TOKENS)
    queries = array(layer.queries).astype("float64")
    for mask in (np.ones_like(MASK), MASK):
        expected = []
        for x, m in zip(TOKENS.astype("float64"), mask, strict=True):
            weights = softmax(queries @ norm(layer.norm, x[m]).T, axis=-1)
            expected.append(weights @ x[m])
        np.testing.assert_allclose(values(layer, TOKENS, mask=mask), expected, atol=2e-6)
    np.testing.assert_allclose(
        values(layer, TOKENS), values(layer, TOKENS, mask=np.ones_like(MASK)), atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_merging_nothing_real_gives_zeros(dtype):
    layer = built(PatchMerger(2, dtype=dtype), TOKENS)
    answer = values(layer, TOKENS, mask=np.zeros((3, 6), bool))
    np.testing.assert_array_equal(answer, 0.0)


def test_merging_computes_its_weights_in_float32():
    """In bfloat16 weights of 1/300 each would sum to something else than 1."""
    tokens = np.full((1, 300, 8), 1.0, "float32")
    layer = PatchMerger(2, dtype="mixed_bfloat16")
    np.testing.assert_allclose(values(built(layer, tokens), tokens), 1.0, rtol=4e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pooling("max"), "unknown pooling 'max': the known ones are cls, mean, None"),
        (lambda: Pooling("mean", prefix=-1), "prefix must be a non-negative integer, not -1"),
        (lambda: AttentionPooling(0, 9), "heads must be a positive integer, not 0"),
        (lambda: AttentionPooling(2, 0), "mlp width must be a positive integer, not 0"),
        (lambda: AttentionPooling(2, 9, "gello"), "unknown mlp 'gello'.*Did you mean 'gelu'"),
        (lambda: AttentionPooling(2, 9, prefix=0.5), "prefix must be a non-negative integer, not 0.5"),
        (lambda: AttentionPooling(2, 9, epsilon=-1.0), "epsilon must be .* not -1.0"),
        (lambda: AttentionPooling(3, 9).build((2, 5, 8)), "width 8 cannot be split into 3 equal heads"),
        (lambda: PatchMerger(0), "number of merged tokens must be a positive integer, not 0"),
        (lambda: PatchMerger(2, epsilon=0.0), "epsilon must be .* not 0.0"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("shape", [(3, 5), (3, 6, 6)])
@pytest.mark.parametrize(
    "layer",
    [lambda: Pooling("mean"), lambda: Pooling(None), lambda: AttentionPooling(2, 9), lambda: PatchMerger(2)],
)
def test_a_mask_of_another_shape_is_refused(layer, shape):
    with pytest.raises(InputError, match=f"mask .*{', '.join(map(str, shape))}"):
        layer()(TOKENS, mask=np.ones(shape, bool))
