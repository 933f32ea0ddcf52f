"""Encoder and decoder blocks against NumPy; rematerialisation against the plain block."""

import keras
import numpy as np
import pytest
from harness import BACKEND, array, built, copied, gradients, noise, run, stateless, values
from references import attention, mlp, norm

from keras_vit.errors import InputError
from keras_vit.layers import (
    DecoderBlock,
    EncoderBlock,
    RelativePositions,
    RotaryPositions,
    causal_mask,
)

TOKENS, MEMORY = noise(3, 5, 8), noise(3, 4, 6, seed=1)
KEYS = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
PAIRS = np.random.default_rng(2).random((3, 5, 5)) < 0.6
ROTARY = RotaryPositions(4).for_attention((2, 2), prefix=1)["rotary"]
BIAS = noise(2, 5, 5, seed=3)

BLOCKS = {
    "plain": {},
    "tanh": {"mlp": "gelu_tanh", "epsilon": 1e-3},
    "swiglu": {"mlp": "swiglu", "layer_scale": 0.1},
    "hard": {"attention": {"kind": "hard", "top_k": 2}},
    "relu, qk_norm": {"attention": {"kind": "relu", "qk_norm": True}, "epsilon": 1e-3},
    "fused": {"attention": {"fused": True}},
    "folded": {
        "attention": {"scale": 1.0, "average": False, "key_bias": False, "value_bias": False},
        "affine": False,
        "centre": False,
    },
}


def scaled(block, number, x):
    scale = getattr(block, f"branch_{number}")[0]
    return x * array(scale.gamma) if block.layer_scale is not None else x


def encoder(block, x, attend=1.0, transform=1.0, **seen):
    """Factors are for stochastic depth: one for each example."""
    y = norm(block.norm_1, x)
    x = x + attend * scaled(block, 1, attention(block.attention, y, y, **seen)[0])
    return x + transform * scaled(block, 2, mlp(block.mlp, norm(block.norm_2, x)))


def decoder(block, x, memory, mask=None, memory_mask=None):
    y = norm(block.norm_1, x)
    x = x + scaled(block, 1, attention(block.attention, y, y, mask)[0])
    x = x + scaled(block, 2, attention(block.cross_attention, norm(block.norm_2, x), memory, memory_mask)[0])
    return x + scaled(block, 3, mlp(block.mlp, norm(block.norm_3, x)))


def encoder_block(name="plain", **arguments):
    return built(EncoderBlock(2, 9, **{**BLOCKS[name], **arguments}), TOKENS)


def decoder_block(name="plain", **arguments):
    return built(DecoderBlock(2, 9, **{**BLOCKS[name], **arguments}), TOKENS, MEMORY)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_encoder_block_is_the_formula(name):
    block = encoder_block(name)
    np.testing.assert_allclose(values(block, TOKENS), encoder(block, TOKENS), atol=5e-6)
    seen = {"mask": KEYS, "rotary": ROTARY, "bias": BIAS}
    np.testing.assert_allclose(values(block, TOKENS, **seen), encoder(block, TOKENS, **seen), atol=5e-6)


@pytest.mark.parametrize("seen", ["mask", "pairs", "shared pairs", "bias", "own bias", "rotary", "nothing"])
@pytest.mark.parametrize("rows", [1, 2])
def test_only_the_rows_that_are_asked_for_are_computed_and_they_are_the_same(rows, seen):
    given = {
        "mask": {"mask": KEYS},
        "pairs": {"mask": PAIRS},
        "shared pairs": {"mask": causal_mask(5)},
        "bias": {"bias": BIAS},
        "own bias": {"bias": noise(3, 2, 5, 5, seed=4)},
        "rotary": {"rotary": ROTARY},
        "nothing": {},
    }[seen]
    block = encoder_block()
    few = values(block, TOKENS, num_queries=rows, **given)
    assert few.shape == (3, rows, 8)
    np.testing.assert_allclose(few, values(block, TOKENS, **given)[:, :rows], atol=1e-6)


def test_blocks_can_be_called_on_symbolic_tensors():
    tokens, memory, mask = keras.Input((5, 8)), keras.Input((4, 6)), keras.Input((5,), dtype="bool")
    pairs, memory_mask = keras.Input((5, 5), dtype="bool"), keras.Input((4,), dtype="bool")
    assert encoder_block()(tokens, mask=mask).shape == (None, 5, 8)
    assert encoder_block()(tokens, num_queries=2).shape == (None, 2, 8)
    assert encoder_block()(tokens, mask=pairs, bias=BIAS, rotary=ROTARY).shape == (None, 5, 8)
    assert decoder_block()(tokens, memory).shape == (None, 5, 8)
    assert decoder_block()(tokens, memory, mask=causal_mask(5), memory_mask=memory_mask).shape == (None, 5, 8)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_decoder_block_is_the_formula(name):
    block = decoder_block(name)
    np.testing.assert_allclose(values(block, TOKENS, MEMORY), decoder(block, TOKENS, MEMORY), atol=5e-6)
    given = {"mask": causal_mask(5), "memory_mask": KEYS[:, :4]}
    expected = decoder(block, TOKENS, MEMORY, **given)
    np.testing.assert_allclose(values(block, TOKENS, MEMORY, **given), expected, atol=5e-6)


@pytest.mark.parametrize("name", ["plain", "hard", "relu, qk_norm", "fused"])
def test_a_causal_decoder_does_not_see_the_future(name):
    block, changed = decoder_block(name), TOKENS.copy()
    changed[:, 3:] += 10 * noise(3, 2, 8, seed=5)
    before, after = (values(block, x, MEMORY, mask=causal_mask(5)) for x in (TOKENS, changed))
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert np.abs(after[:, 3:] - before[:, 3:]).min(-1).max() > 1e-3
    alone = values(block, TOKENS[:, :2], MEMORY, mask=causal_mask(2))
    if name != "hard":  # which looks at two keys at most, all the same: see test_attention.py
        np.testing.assert_allclose(alone, before[:, :2], atol=1e-6)


def test_without_a_mask_a_decoder_sees_the_future():
    block, changed = decoder_block(), TOKENS.copy()
    changed[:, 4] += noise(3, 8, seed=5)
    assert np.abs(values(block, changed, MEMORY) - values(block, TOKENS, MEMORY))[:, :4].max() > 1e-3


def test_a_layer_scale_of_zero_leaves_tokens_alone():
    for block, inputs in (
        (EncoderBlock(2, 9, layer_scale=0), [TOKENS]),
        (DecoderBlock(2, 9, layer_scale=0.0), [TOKENS, MEMORY]),
    ):
        block.build(*(x.shape for x in inputs))
        np.testing.assert_array_equal(values(block, *inputs), TOKENS)


def test_stochastic_depth_skips_each_branch_of_each_example_on_its_own():
    many = np.repeat(TOKENS[:1], 2000, axis=0)
    block = built(EncoderBlock(2, 9, stochastic_depth=0.25, layer_scale=0.5), many)
    y = values(block, many, training=True)
    one = TOKENS[:1].astype("float64")
    counts = {}
    for attend in (0, 1):
        for transform in (0, 1):
            expected = encoder(block, one, attend / 0.75, transform / 0.75)[0]
            counts[attend, transform] = (np.abs(y - expected).max((1, 2)) < 1e-5).sum()
    assert sum(counts.values()) == 2000, "every example is one of the four"
    for (attend, transform), count in counts.items():
        share = (0.75 if attend else 0.25) * (0.75 if transform else 0.25)
        assert abs(count / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)


# Rematerialisation: the same function, the same gradients, the same random numbers.

CHANCE = {"dropout": 0.3, "stochastic_depth": 0.3, "attention": {"dropout": 0.3}}
REMAT = {
    "encoder": (EncoderBlock, [TOKENS], {"mask": KEYS[:2][[0, 1, 1]], "rotary": ROTARY}),
    "decoder": (DecoderBlock, [TOKENS, MEMORY], {"mask": causal_mask(5), "memory_mask": KEYS[[0, 1, 1], :4]}),
}


def pair(kind, **arguments):
    """(inputs, arguments of the call, plain block, the same rematerialised)."""
    make, inputs, given = REMAT[kind]
    plain, remat = (built(make(2, 9, remat=remat, **arguments), *inputs, seed=3) for remat in (False, True))
    return inputs, given, plain, remat


@pytest.mark.needs_gradients
@pytest.mark.parametrize("chance", [{}, CHANCE], ids=["no chance", "chance"])
@pytest.mark.parametrize("kind", REMAT)
def test_rematerialisation_changes_neither_outputs_nor_gradients(kind, chance):
    inputs, given, plain, remat = pair(kind, **chance)
    expected = gradients(plain, *inputs, training=True, **given)
    # Gradients first: each block draws its first random numbers in them.
    for a, b in zip(gradients(remat, *inputs, training=True, **given), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(np.abs(g).max() for g in expected) > 0.1
    first, second = (values(block, *inputs, training=True, **given) for block in (plain, remat))
    np.testing.assert_allclose(second, first, atol=1e-6)
    for a, b in zip(plain.non_trainable_variables, remat.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(array(a), array(b), "the seeds have moved on alike")
    again = values(remat, *inputs, training=True, **given)
    assert (np.abs(again - second).max() > 1e-3) == bool(chance), "and the next step draws anew"


@pytest.mark.needs_gradients
def test_gradients_reach_a_bias_through_rematerialisation():
    positions = RelativePositions((1, 5), 2)
    positions.build((None, 5, 8))

    class Biased(keras.layers.Layer):
        def __init__(self, block):
            super().__init__()
            self.positions, self.block = positions, block
            self.built = True

        def call(self, tokens, training=None):
            return self.block(tokens, training=training, **self.positions.for_attention((1, 5)))

    _, _, *blocks = pair("encoder")
    plain, remat = (gradients(Biased(block), TOKENS, training=True) for block in blocks)
    assert any(g.shape == (1, 9, 2) and np.abs(g).max() > 1e-3 for g in plain)
    for a, b in zip(remat, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.needs_gradients
@pytest.mark.parametrize("kind", REMAT)
def test_rematerialisation_computes_the_block_again(kind, monkeypatch):
    inputs, given, plain, remat = pair(kind)
    counts = []
    for block in (plain, remat):
        if BACKEND == "jax":
            import jax

            def loss(tokens, block=block):
                state = [v.value for v in block.variables]
                return stateless(block, state, [tokens, *inputs[1:]], given, {"training": True})[0].sum()

            counts.append(str(jax.make_jaxpr(jax.grad(loss))(inputs[0])).count(" erf"))
            continue
        calls, real = [], block.mlp.call
        monkeypatch.setattr(
            block.mlp, "call", lambda *a, _calls=calls, _real=real, **kw: _calls.append(1) or _real(*a, **kw)
        )
        gradients(block, *inputs, training=True, **given)
        counts.append(len(calls))
    assert counts[0] == 1 and counts[1] >= 2
    assert values(remat, *inputs, **given) is not None


@pytest.mark.needs_gradients
def test_a_model_of_rematerialised_blocks_trains_as_the_plain_one():
    """Inside a compiled training step, where random numbers are drawn in a graph."""
    after = []
    for remat in (False, True):
        inputs = keras.Input((5, 8))
        blocks = [built(EncoderBlock(2, 9, remat=remat, **CHANCE), TOKENS, seed=s) for s in (4, 5)]
        x = inputs
        for block in blocks:
            x = block(x)
        model = keras.Model(inputs, x)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        for step in range(2):
            model.train_on_batch(TOKENS, noise(3, 5, 8, seed=6 + step))
        after.append(model.get_weights())
    for a, b in zip(*after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_inference_does_not_rematerialise():
    """No warning from backends that cannot, and no recomputation in an exported graph."""
    block = encoder_block(remat=True)
    plain = copied(block, EncoderBlock(2, 9), TOKENS)
    np.testing.assert_array_equal(array(run(block, TOKENS)), array(run(plain, TOKENS)))


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "heads must be a positive integer, not 0"),
        ({"num_heads": 2.5}, "heads must be a positive integer, not 2.5"),
        ({"mlp_width": 0}, "mlp width must be a positive integer, not 0"),
        ({"mlp": "gelo"}, "unknown mlp 'gelo'.*Did you mean 'gelu'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"stochastic_depth": 1.0}, r"stochastic depth must be in \[0, 1\), not 1.0"),
        ({"layer_scale": "small"}, "layer_scale must be a finite number, not 'small'"),
        ({"epsilon": 0.0}, "epsilon must be .* not 0.0"),
        ({"remat": "yes"}, "remat must be True or False, not 'yes'"),
        ({"affine": 1}, "affine must be True or False, not 1"),
        ({"centre": 0}, "centre must be True or False, not 0"),
        ({"attention": {"kind": "softer"}}, "unknown attention 'softer'"),
        (
            {"attention": {"attention_types": "soft"}},
            "unknown option of attention 'attention_types'.*Did you mean 'attention_type'",
        ),
        ({"attention": {"num_heads": 3}}, "unknown option of attention 'num_heads'"),
        ({"attention": {"kind": "hard"}}, "top_k"),
        ({"attention": "hard"}, "attention must be .* not 'hard'"),
    ],
)
def test_impossible_arguments_are_refused(block, arguments, message):
    with pytest.raises(InputError, match=message):
        block(**{"num_heads": 2, "mlp_width": 9, **arguments})


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (2, 5)])
def test_a_mask_of_another_shape_is_refused(shape):
    mask = np.ones(shape, bool)
    message = r"mask of shape .* tokens \[3, 5, 8\]"
    with pytest.raises(InputError, match=message):
        encoder_block()(TOKENS, mask=mask)
    with pytest.raises(InputError, match=message):
        decoder_block()(TOKENS, MEMORY, mask=mask)
    with pytest.raises(InputError, match=r"mask of shape .* tokens \[3, 4, 6\]"):
        decoder_block()(TOKENS, MEMORY, memory_mask=np.ones((3, 5), bool))
