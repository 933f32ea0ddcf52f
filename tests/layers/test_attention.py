"""`Attention` against loops in NumPy float64, and what it must never do."""

import keras
import numpy as np
import pytest
from harness import BACKEND, array, built, copied, gradients, noise, values
from references import attention as reference

from keras_vit.errors import InputError
from keras_vit.layers import Attention, RotaryPositions, causal_mask

B, M, N, D, HEADS = 3, 4, 5, 8, 2
QUERIES, TOKENS, OTHER = noise(B, M, D), noise(B, N, D, seed=1), noise(B, N, 6, seed=2)
FIRST = noise(B, N, D, seed=1)[:, :M]  # queries that are the first of the tokens, as rotary needs


def some(*shape, seed=3):
    """A mask in which some queries see nothing, and one example sees all."""
    mask = np.random.default_rng(seed).random(shape) < 0.5
    mask[0], mask[-1] = True, False
    if len(shape) == 3 and shape[0] > 1:
        mask[1, 0] = False
    return mask


MASKS = {
    "all": None,
    "keys": some(B, N),
    "pairs": some(B, M, N),
    "shared pairs": causal_mask(N)[:, :M],
}


KINDS = {
    "soft": {"fused": False},
    "fused": {"fused": True},
    "hard": {"kind": "hard", "top_k": 2},
    "relu": {"kind": "relu"},
    "folded": {"scale": 1.0, "average": False, "key_bias": False, "value_bias": False},
    "qk_norm": {"qk_norm": True, "epsilon": 1e-3},
    "hard qk_norm": {"kind": "hard", "top_k": 1, "qk_norm": True},
}


def made(kind="soft", tokens=TOKENS, **arguments):
    return built(Attention(HEADS, **{**KINDS[kind], **arguments}), QUERIES, tokens)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_formula(kind, mask):
    layer, mask = made(kind), MASKS[mask]
    expected, _ = reference(layer, QUERIES, TOKENS, mask)
    np.testing.assert_allclose(values(layer, QUERIES, TOKENS, mask=mask), expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["soft", "fused", "hard", "relu"])
def test_tokens_may_have_another_width(kind):
    layer = made(kind, OTHER)
    expected, _ = reference(layer, QUERIES, OTHER, MASKS["keys"])
    answer = values(layer, QUERIES, OTHER, mask=MASKS["keys"])
    assert answer.shape == QUERIES.shape
    np.testing.assert_allclose(answer, expected, atol=2e-6)


@pytest.mark.parametrize("mask", ["all", "pairs"])
@pytest.mark.parametrize("shape", [(HEADS, M, N), (B, HEADS, M, N)])
@pytest.mark.parametrize("kind", ["soft", "fused", "hard", "relu"])
def test_a_bias_is_added_to_the_scores(kind, shape, mask):
    layer, bias, mask = made(kind), 2 * noise(*shape, seed=4), MASKS[mask]
    expected, _ = reference(layer, QUERIES, TOKENS, mask, bias)
    np.testing.assert_allclose(values(layer, QUERIES, TOKENS, mask=mask, bias=bias), expected, atol=2e-6)
    assert np.abs(expected - reference(layer, QUERIES, TOKENS, mask)[0]).max() > 0.05


@pytest.mark.parametrize("each", [False, True], ids=["shared", "each example its own"])
@pytest.mark.parametrize("kind", ["soft", "fused", "relu"])
def test_rotary_turns_queries_and_keys(kind, each):
    """The queries are the first tokens, so they have the first angles."""
    rotary = RotaryPositions(D // HEADS).for_attention((2, 2), prefix=1)["rotary"]
    layer = made(kind)
    given = tuple(np.stack([table, table[::-1], table]) for table in rotary) if each else rotary
    answer = values(layer, FIRST, TOKENS, mask=MASKS["keys"], rotary=given)
    for b in range(B):
        angles = tuple(table[b] for table in given) if each else given
        one = slice(b, b + 1)
        expected, _ = reference(layer, FIRST[one], TOKENS[one], MASKS["keys"][one], rotary=angles)
        np.testing.assert_allclose(answer[one], expected, atol=2e-6)
    plain, _ = reference(layer, FIRST, TOKENS, MASKS["keys"])
    assert np.abs(answer - plain).max() > 0.01


@pytest.mark.parametrize("kind", ["soft", "hard", "relu", "qk_norm"])
def test_the_weights_on_request(kind):
    layer, mask = made(kind, dropout=0.5), MASKS["pairs"]
    output, weights = values(layer, QUERIES, TOKENS, mask=mask, return_scores=True)
    expected, expected_weights = reference(layer, QUERIES, TOKENS, mask)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)
    np.testing.assert_array_equal(weights[~np.broadcast_to(mask[:, None], weights.shape)], 0.0)
    np.testing.assert_allclose(output, expected, atol=2e-6)


def test_the_weights_are_float32_also_in_half_precision():
    _, weights = made(dtype="mixed_bfloat16")(QUERIES, TOKENS, return_scores=True)
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    np.testing.assert_allclose(array(weights).sum(-1), 1.0, atol=1e-6)


def test_the_weights_of_symbolic_tensors_are_announced():
    queries, tokens = keras.Input((M, D)), keras.Input((N, D))
    output, weights = made()(queries, tokens, return_scores=True)
    assert output.shape == (None, M, D) and weights.shape == (None, HEADS, M, N)


# A query that sees nothing.


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_sees_nothing_gets_zeros(kind, dtype):
    layer = made(kind, dtype=dtype)
    for mask in (MASKS["keys"], MASKS["pairs"]):
        answer = values(layer, QUERIES, TOKENS, mask=mask)
        seen = np.broadcast_to(mask[:, None] if mask.ndim == 2 else mask, (B, M, N)).any(-1)
        assert 0 < seen.sum() < seen.size
        np.testing.assert_array_equal(answer[~seen], 0.0)
        assert np.isfinite(answer).all() and (np.abs(answer[seen]).max(-1) > 0).all()


@pytest.mark.needs_gradients
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_sees_nothing_has_no_gradient(kind, dtype):
    layer, mask = made(kind, dtype=dtype), MASKS["pairs"]
    *weights, queries, tokens = gradients(layer, QUERIES, TOKENS, mask=mask, training=True)
    assert all(np.isfinite(g).all() for g in (*weights, queries, tokens))
    np.testing.assert_array_equal(queries[~mask.any(2)], 0.0)
    np.testing.assert_array_equal(tokens[~mask.any(1)], 0.0)
    assert np.abs(tokens).max() > 0.01


def test_what_a_query_may_not_see_has_no_influence():
    mask, changed = np.broadcast_to(MASKS["shared pairs"], (B, M, N)), TOKENS.copy()
    changed[:, 2] += 100.0
    for kind in KINDS:
        layer = made(kind)
        before, after = (values(layer, QUERIES, x, mask=mask) for x in (TOKENS, changed))
        np.testing.assert_array_equal(before[:, :2], after[:, :2])
        assert np.abs(before[:, 2:] - after[:, 2:]).max() > 1e-3


# Hard attention.


@pytest.mark.parametrize("k", [1, 2, 4])
def test_hard_attention_looks_at_exactly_top_k_keys(k):
    layer = made("hard", top_k=k)
    _, weights = values(layer, QUERIES, TOKENS, mask=MASKS["pairs"], return_scores=True)
    visible = MASKS["pairs"].sum(-1)[:, None]
    np.testing.assert_array_equal(
        (weights > 0).sum(-1), np.broadcast_to(np.minimum(visible, k), (B, HEADS, M))
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equal_scores_let_no_more_keys_in(k):
    same = np.repeat(TOKENS[:, :1], N, axis=1)
    layer = made("hard", top_k=k)
    _, weights = values(layer, QUERIES, same, return_scores=True)
    np.testing.assert_allclose(np.sort(weights, axis=-1)[..., -k:], 1 / k, atol=1e-6)
    np.testing.assert_array_equal(np.sort(weights, axis=-1)[..., :-k], 0.0)


def test_one_key_gives_the_value_of_the_best():
    layer = made("hard", top_k=1)
    soft = copied(layer, Attention(HEADS), QUERIES, TOKENS)
    _, weights = values(soft, QUERIES, TOKENS, return_scores=True)
    v = array(layer.value(TOKENS)).reshape(B, N, HEADS, -1)
    best = np.stack([[v[b, weights[b, h].argmax(-1), h] for h in range(HEADS)] for b in range(B)])
    expected = layer.output_projection(best.transpose(0, 2, 1, 3).reshape(B, M, D))
    np.testing.assert_allclose(values(layer, QUERIES, TOKENS), array(expected), atol=1e-6)


@pytest.mark.parametrize("k", [N, N + 3])
@pytest.mark.parametrize("training", [False, True])
def test_enough_keys_are_soft_attention(k, training):
    layer = made("hard", top_k=k)
    soft = copied(layer, Attention(HEADS, fused=False), QUERIES, TOKENS)
    given = {"mask": MASKS["pairs"], "training": training}
    np.testing.assert_array_equal(
        values(layer, QUERIES, TOKENS, **given), values(soft, QUERIES, TOKENS, **given)
    )


@pytest.mark.needs_gradients
def test_hard_attention_goes_forward_hard_and_backward_soft():
    """Straight through: the weights' gradient is that of the softmax, taken at the hard output."""
    layer = made("hard", top_k=1)
    soft = copied(layer, Attention(HEADS, fused=False), QUERIES, TOKENS)
    given = {"mask": MASKS["keys"], "training": True}
    np.testing.assert_allclose(
        values(layer, QUERIES, TOKENS, **given),
        values(layer, QUERIES, TOKENS, mask=MASKS["keys"]),
        atol=1e-6,
    )
    names = [v.path.split("/", 1)[1] for v in layer.trainable_variables] + ["queries", "tokens"]
    hard_ones = dict(zip(names, gradients(layer, QUERIES, TOKENS, **given), strict=True))
    soft_ones = dict(zip(names, gradients(soft, QUERIES, TOKENS, **given), strict=True))
    for name in ("query/kernel", "query/bias", "key/kernel", "queries"):
        np.testing.assert_allclose(hard_ones[name], soft_ones[name], atol=1e-5)
        assert np.abs(soft_ones[name]).max() > 1e-3
    # The values are weighted by the hard choice, in both directions.
    assert np.abs(hard_ones["value/kernel"] - soft_ones["value/kernel"]).max() > 1e-2


# ReLU, qk-norm, dropout.


def test_relu_attention_divides_by_the_number_of_visible_keys():
    layer, short = made("relu"), TOKENS[:, :2]
    weights = [
        values(layer, QUERIES, x, mask=mask, return_scores=True)[1]
        for x, mask in ((short, None), (TOKENS, np.arange(N) < 2 * np.ones((B, 1))), (TOKENS, None))
    ]
    np.testing.assert_allclose(weights[1][..., :2], weights[0], atol=1e-6)
    np.testing.assert_allclose(weights[2][..., :2] * N / 2, weights[0], atol=1e-6)
    assert weights[0].max() > 0.1 and (weights[0] == 0).any()


def test_qk_norm_makes_the_length_of_queries_and_keys_irrelevant():
    layer = made("qk_norm", epsilon=1e-12)
    for part in (layer.query, layer.key):
        part.bias.assign(np.zeros(D))
    _, weights = values(layer, QUERIES, TOKENS, return_scores=True)
    _, scaled = values(layer, 30 * QUERIES, 0.1 * TOKENS, return_scores=True)
    np.testing.assert_allclose(scaled, weights, atol=1e-5)
    assert weights.std() > 0.02


@pytest.mark.parametrize("kind", ["soft", "fused", "hard", "relu"])
def test_dropout_is_on_the_weights_in_training_only_and_keeps_their_expectation(kind):
    plain = made(kind)
    layer = built(Attention(HEADS, dropout=0.4, **KINDS[kind]), QUERIES, TOKENS)
    layer.set_weights(plain.get_weights())
    expected = values(plain, QUERIES, TOKENS)
    np.testing.assert_array_equal(values(layer, QUERIES, TOKENS), expected)
    many = values(layer, np.repeat(QUERIES[:1], 4000, 0), np.repeat(TOKENS[:1], 4000, 0), training=True)
    assert many.std(0).min() > 0.01
    np.testing.assert_allclose(many.mean(0), expected[0], atol=5 * many.std(0).max() / np.sqrt(4000))


# The fused kernel.


@pytest.mark.parametrize("fused", [None, False, True])
def test_the_kernel_of_the_backend_is_used_where_there_is_one(monkeypatch, fused):
    calls, real = [], keras.ops.dot_product_attention
    monkeypatch.setattr(
        keras.ops, "dot_product_attention", lambda *a, **kw: calls.append(kw) or real(*a, **kw)
    )
    layer = made(fused=fused, dropout=0.5)
    layer(QUERIES, TOKENS, mask=MASKS["keys"])
    used = fused if fused is not None else BACKEND in ("jax", "torch")
    assert len(calls) == used
    layer(QUERIES, TOKENS, return_scores=True)
    layer(QUERIES, TOKENS, training=True)
    assert len(calls) == used, "the kernel gives no weights and knows no dropout"


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("mask", ["all", "keys", "pairs"])
def test_fused_attention_is_the_same_function(mask, dtype):
    arguments = {"mask": MASKS[mask], "bias": noise(HEADS, M, N, seed=4)}
    one = made("fused", dtype=dtype)
    two = copied(one, Attention(HEADS, fused=False, dtype=dtype), QUERIES, TOKENS)
    a, b = (values(layer, QUERIES, TOKENS, **arguments) for layer in (one, two))
    np.testing.assert_allclose(
        a, b, atol={"float32": 1e-6, "mixed_bfloat16": 0.02, "mixed_float16": 3e-3}[dtype]
    )


@pytest.mark.needs_gradients
def test_fused_attention_has_the_same_gradients():
    one = made("fused")
    two = copied(one, Attention(HEADS, fused=False), QUERIES, TOKENS)
    given = {"mask": MASKS["pairs"], "bias": noise(B, HEADS, M, N, seed=4)}
    for a, b in zip(*(gradients(x, QUERIES, TOKENS, **given) for x in (one, two)), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


# Numbers at the edge.


@pytest.mark.parametrize("kind", ["soft", "fused", "hard", "relu"])
def test_scores_that_leave_float16_only_before_scaling_are_right(kind):
    """Q K^T is 160,000, more than float16 holds; Q K^T / sqrt(d) is 40,000."""
    layer = Attention(1, dtype="mixed_float16", **KINDS[kind])
    x = np.zeros((1, 3, 16), "float32")
    x[0, :, :] = np.array([1.0, -1.0, 0.5])[:, None]
    layer.build(x.shape, x.shape)
    eye = np.eye(16, dtype="float32")
    layer.set_weights([w for kernel in (100 * eye, 100 * eye, eye, eye) for w in (kernel, np.zeros(16))])
    answer = values(layer, x, x)
    if kind == "relu":
        expected = [(40000 + 20000 / 2) / 3, 40000 / 3, (20000 + 10000 / 2) / 3]
        expected[1] = -expected[1]
    else:
        expected = [1.0, -1.0, 1.0]
    np.testing.assert_allclose(answer[0, :, 0], expected, rtol=2e-3)


@pytest.mark.parametrize("kind", ["soft", "hard", "qk_norm"])
@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e15), ("mixed_bfloat16", 1e15), ("mixed_float16", 3e3)]
)
def test_huge_scores_are_finite(kind, dtype, size):
    layer = made(kind, dtype=dtype)
    answer = values(layer, size * QUERIES, size * TOKENS, mask=MASKS["pairs"])
    assert np.isfinite(answer).all()


@pytest.mark.filterwarnings("error")
def test_a_single_token_gives_its_value():
    layer, one = made(), TOKENS[:, :1]
    expected = array(layer.output_projection(layer.value(one)))
    np.testing.assert_allclose(values(layer, QUERIES, one), np.repeat(expected, M, 1), atol=1e-6)


def test_the_order_of_tokens_does_not_matter():
    order = [3, 0, 4, 1, 2]
    for kind in ("soft", "hard", "relu"):
        layer = made(kind)
        expected = values(layer, QUERIES, TOKENS)
        np.testing.assert_allclose(values(layer, QUERIES, TOKENS[:, order]), expected, atol=1e-6)
        moved = values(layer, QUERIES[:, [2, 0, 3, 1]], TOKENS)
        np.testing.assert_allclose(moved, expected[:, [2, 0, 3, 1]], atol=1e-6)


def test_the_hook_of_quantization_is_called_and_used():
    layer, seen = made(fused=True), []

    def double(role, tensor):
        seen.append((role, tuple(tensor.shape)))
        return tensor * (2.0 if role == "probabilities" else 1.0)

    bias = array(layer.output_projection.bias)
    expected = values(layer, QUERIES, TOKENS) - bias
    layer.fake_quantize = double
    np.testing.assert_allclose(array(layer(QUERIES, TOKENS)) - bias, 2 * expected, atol=2e-6)
    assert seen == [
        ("queries", (B, HEADS, M, D // HEADS)),
        ("keys", (B, HEADS, N, D // HEADS)),
        ("scores", (B, HEADS, M, N)),
        ("probabilities", (B, HEADS, M, N)),
        ("context", (B, HEADS, M, D // HEADS)),
    ]


# What a user gets told.


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (B, N + 1),
            rf"mask of shape \[3, 6\] for queries \[3, 4, 8\] and tokens \[3, 5, 8\].*\[batch, {N}\]",
        ),
        ((B, M), r"mask of shape \[3, 4\] .* must be \[batch, 5\] or \[batch, 4, 5\]"),
        ((B, N, N), r"mask of shape \[3, 5, 5\] .* tokens \[3, 5, 8\]"),
        ((B + 1, M, N), r"mask of shape \[4, 4, 5\] for queries \[3, 4, 8\]"),
        ((B + 1, N), r"mask of shape \[4, 5\] for queries \[3, 4, 8\]"),
        ((B, 1, M, N), r"a mask has shape \[batch, keys\] or .* not \[3, 1, 4, 5\]"),
        ((N,), r"a mask has shape .* not \[5\]"),
    ],
)
def test_a_mask_of_another_shape_is_refused(shape, message):
    with pytest.raises(InputError, match=message):
        made()(QUERIES, TOKENS, mask=np.ones(shape, bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(0), "heads must be a positive integer, not 0"),
        (lambda: Attention(2.0), "heads must be a positive integer, not 2.0"),
        (lambda: Attention(True), "heads must be a positive integer, not True"),
        (lambda: Attention(2, kind="harder"), "unknown attention 'harder': .*soft, hard, relu.*'hard'"),
        (lambda: Attention(2, kind="hard"), "top_k, which hard attention needs, must be a positive .* None"),
        (lambda: Attention(2, kind="hard", top_k=0), "top_k.* not 0"),
        (lambda: Attention(2, top_k=3), "top_k=3 belongs to hard attention, not to 'soft'"),
        (lambda: Attention(2, dropout=1.0), r"attention dropout must be in \[0, 1\), not 1.0"),
        (lambda: Attention(2, dropout=-0.1), r"attention dropout must be in \[0, 1\), not -0.1"),
        (lambda: Attention(2, qk_norm=1), "qk_norm must be True or False, not 1"),
        (lambda: Attention(2, key_bias="yes"), "key_bias must be True or False, not 'yes'"),
        (lambda: Attention(2, scale=-1), r"scale must be a number above 0, not -1"),
        (lambda: Attention(2, epsilon=-1.0), "epsilon must be .* not -1.0"),
        (lambda: Attention(2, epsilon="small"), "epsilon must be .* not 'small'"),
        (lambda: Attention(2, fused="yes"), "fused must be .* not 'yes'"),
        (lambda: Attention(3)(QUERIES, TOKENS), "width 8 cannot be split into 3 equal heads"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
