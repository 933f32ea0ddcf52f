"""Every public layer through the shared harness, and the small layers against NumPy."""

import functools

import keras
import numpy as np
import pytest
from harness import TOKENS, Case, array, built, copied, each_check, gradients, noise, values
from references import mlp, norm

from keras_vit import layers
from keras_vit.errors import InputError
from keras_vit.layers import (
    Attention,
    AttentionPooling,
    CompactStem,
    Convolution,
    ConvPatches,
    CoordinatePositions,
    DecoderBlock,
    EncoderBlock,
    FactorisedPositions,
    LayerNorm,
    LayerScale,
    LearnedPositions,
    Linear,
    MaskTokens,
    Mlp,
    NoPositions,
    OneHotPositions,
    OverlappingPatches,
    PatchDropout,
    Patches,
    PatchMerger,
    Pooling,
    RelativePositions,
    RotaryPositions,
    SinCos2DPositions,
    SinusoidalPositions,
    SpectrogramPatches,
    StochasticDepth,
    SwiGlu,
    Tubelets,
    depth_rates,
)

MEMORY = (3, 5, 6)
RANDOM_OUTPUT = "inference_is_deterministic_and_rate_0_is_inference"
LACKING = {"scale": 1.0, "average": False, "key_bias": False, "value_bias": False}
CHANCE = {"dropout": 0.5, "stochastic_depth": 0.5, "layer_scale": 0.1}


def of(layer, *args, **arguments):
    return functools.partial(layer, *args, **arguments)


def everything(y, mask):
    return y


# Self-attention and encoder blocks: content of masked tokens is masked as query and as key.
itself = functools.partial(Case, shapes=(TOKENS, TOKENS), same=True, mask="mask", masked=(0, 1))
to_memory = functools.partial(
    Case, shapes=((3, 2, 8), MEMORY), mask="mask", masked=(1,), real=everything, cleans=True
)
encoder = functools.partial(Case, shapes=TOKENS, mask="mask")
decoder = functools.partial(Case, shapes=((3, 4, 8), MEMORY))
image = functools.partial(Case, shapes=(3, 8, 6, 3), mask="mask", piece=(4, 2), cleans=True)
positions = functools.partial(Case, shapes=(3, 2 + 6, 8))

CASES = {
    "linear": Case(of(Linear, 5), TOKENS),
    "linear without bias": Case(of(Linear, 5, use_bias=False, kernel_initializer="he_normal"), TOKENS),
    "norm": Case(of(LayerNorm, 1e-3), TOKENS),
    "norm without scale": Case(of(LayerNorm, affine=False), TOKENS),
    "layer scale": Case(of(LayerScale, 0.1), TOKENS),
    "stochastic depth": Case(of(StochasticDepth, 0.5, seed=1), TOKENS),
    "mlp": Case(of(Mlp, 9, dropout=0.5), TOKENS),
    "mlp tanh": Case(of(Mlp, 9, approximate=True), TOKENS),
    "swiglu": Case(of(SwiGlu, 9, dropout=0.5), TOKENS),
    "attention": itself(of(Attention, 2)),
    "attention fused": itself(of(Attention, 2, fused=True)),
    "attention not fused": itself(of(Attention, 2, fused=False)),
    "attention hard": itself(of(Attention, 2, kind="hard", top_k=2)),
    "attention relu": itself(of(Attention, 2, kind="relu")),
    "attention qk_norm": itself(of(Attention, 4, qk_norm=True, dropout=0.5, epsilon=1e-5)),
    "attention folded": itself(of(Attention, 2, **LACKING)),
    "attention to memory": to_memory(of(Attention, 2)),
    "attention to memory hard": to_memory(of(Attention, 2, kind="hard", top_k=1)),
    "attention to memory relu": to_memory(of(Attention, 2, kind="relu", dropout=0.5)),
    "encoder": encoder(of(EncoderBlock, 2, 9)),
    "encoder with all": encoder(
        of(EncoderBlock, 2, 9, {"qk_norm": True, "dropout": 0.5}, "swiglu", epsilon=1e-5, **CHANCE)
    ),
    "encoder hard": encoder(of(EncoderBlock, 2, 9, {"kind": "hard", "top_k": 2})),
    "encoder relu": encoder(of(EncoderBlock, 2, 9, {"kind": "relu", "fused": False}, "gelu_tanh")),
    "encoder remat": encoder(of(EncoderBlock, 2, 9, {"dropout": 0.5}, remat=True, **CHANCE)),
    "encoder folded": encoder(
        of(EncoderBlock, 2, 9, {"scale": 1.0, "key_bias": False}, affine=False, centre=False)
    ),
    "decoder": decoder(of(DecoderBlock, 2, 9), mask="memory_mask", masked=(1,), real=everything, cleans=True),
    "decoder with all": decoder(
        of(DecoderBlock, 2, 9, {"qk_norm": True, "dropout": 0.5}, "swiglu", remat=True, **CHANCE), mask="mask"
    ),
    "pooling cls": encoder(of(Pooling, "cls"), real=lambda y, mask: y[:2]),  # the first token must be real
    "pooling mean": encoder(of(Pooling, "mean", prefix=1), real=everything, cleans=True),
    "pooling none": encoder(of(Pooling, None, prefix=1), real=lambda y, mask: y[mask[:, 1:]], cleans=True),
    "pooling attention": encoder(
        of(AttentionPooling, 2, 9, "swiglu", prefix=1), real=everything, cleans=True
    ),
    "merger": encoder(of(PatchMerger, 3, 1e-5), real=everything, cleans=True),
    "mask tokens": encoder(
        of(MaskTokens, 0.5, seed=1),
        without=("the_gradients_are_finite",),  # of two outputs: test_dropping.py
    ),
    "patch dropout": encoder(
        of(PatchDropout, 0.5, prefix=1, seed=0),  # the seed that the harness sets, for Keras saves none
        call={"training": True},  # else it gives None
        # It gives indices, none at inference, and a longer sequence has other draws: test_dropping.py.
        without=(
            "the_announced_shape_is_the_shape",
            "half_precision_stays_close",
            "what_is_masked_changes_nothing",
            "the_gradients_are_finite",
            RANDOM_OUTPUT,
        ),
    ),
    "patches": image(of(Patches, (4, 2), 5)),
    "convolution": image(of(ConvPatches, (4, 2), 5, use_bias=False)),
    "overlapping": image(of(OverlappingPatches, (4, 2), 5)),
    "compact": image(of(CompactStem, 2, 5, hidden=6), piece=(2, 2)),
    "tubelets": Case(of(Tubelets, (2, 4, 2), 5), (3, 4, 8, 2, 3), mask="mask", piece=(2, 4, 2), cleans=True),
    "spectrogram": Case(of(SpectrogramPatches, (4, 2), 5), (3, 8, 6), mask="mask", piece=(4, 2), cleans=True),
    "spectrogram with overlap": Case(of(SpectrogramPatches, 4, 5, stride=(3, 2)), (3, 10, 8)),
    "positions learned": positions(of(LearnedPositions, (2, 3), 2)),
    "positions learned resized": positions(of(LearnedPositions, (3, 4), 2), call={"grid": (2, 3)}),
    "positions sinusoidal": positions(of(SinusoidalPositions, (2, 3), 2)),
    "positions sincos2d": positions(of(SinCos2DPositions, (2, 3), 2, convention="timm")),
    "positions factorised": positions(of(FactorisedPositions, (2, 3), 2)),
    "positions coordinates": positions(of(CoordinatePositions, (2, 3), 2, low=0.0)),
    "positions one hot": positions(of(OneHotPositions, (2, 3), 2)),
    "positions none": positions(of(NoPositions)),
    # These two speak to the attention only (test_positions.py): their variables see no gradient here.
    "positions rotary": positions(of(RotaryPositions, 4)),
    "positions relative": positions(of(RelativePositions, (2, 3), 2), without=("the_gradients_are_finite",)),
}


@pytest.mark.parametrize(("name", "check"), each_check(CASES))
def test_the_harness(name, check, tmp_path):
    check(CASES[name], tmp_path)


def test_no_public_layer_is_forgotten():
    public = {getattr(layers, name) for name in layers.__all__}
    public = {kind for kind in public if isinstance(kind, type) and issubclass(kind, keras.layers.Layer)}
    assert len(public) >= 29
    # Convolution is Keras' own Conv2D, with a hook.
    assert {type(case.make()) for case in CASES.values()} == public - {Convolution}


# The small layers against NumPy.


def test_linear_is_the_formula():
    layer, x = built(Linear(5), noise(*TOKENS)), noise(*TOKENS)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(values(layer, x), x @ kernel + bias, atol=1e-6)
    flat = noise(4, 8, seed=3)
    np.testing.assert_allclose(values(layer, flat), flat @ kernel + bias, atol=1e-6)


def test_convolution_is_that_of_keras_and_its_hooks_are_called_and_used():
    options = {"strides": 2, "padding": "same", "activation": "relu"}
    layer, x = built(Convolution(5, 3, **options), noise(2, 6, 8, 3)), noise(2, 6, 8, 3)
    kernel, bias = layer.get_weights()
    twin = built(keras.layers.Conv2D(5, 3, **options), x)
    twin.set_weights([kernel, bias])
    np.testing.assert_allclose(values(layer, x), values(twin, x), atol=1e-6)
    scales = {"input": 2, "kernel": 3, "output": 5}
    twin.set_weights([2 * 3 * kernel, bias])
    expected = 5 * array(twin(x))
    layer.fake_quantize = lambda role, tensor: tensor * scales[role]
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-5, atol=1e-4)


def test_the_hooks_of_linear_are_called_and_used():
    layer, x, scales = (
        built(Linear(5), noise(*TOKENS)),
        noise(*TOKENS),
        {"input": 2, "kernel": 3, "product": 7, "output": 5},
    )
    kernel, bias = layer.get_weights()
    layer.fake_quantize = lambda role, tensor: tensor * scales[role]
    np.testing.assert_allclose(array(layer(x)), 5 * (42 * (x @ kernel) + bias), rtol=1e-5, atol=1e-4)
    bare = built(Linear(5, use_bias=False), x)
    bare.fake_quantize = layer.fake_quantize
    np.testing.assert_allclose(array(bare(x)), 30 * (x @ bare.get_weights()[0]), rtol=1e-5, atol=1e-4)


@pytest.mark.needs_gradients
def test_the_hooks_of_the_norm_are_used_also_in_training():
    """There its gradient is written out unless a hook wants to see what lies between."""
    x = noise(3, 50)
    layer = built(LayerNorm(), x)
    _, shift = layer.get_weights()
    plain = norm(layer, x.astype("float64"))
    scales = {"output": 2, "scaled": 3, "shifted": 5}
    layer.fake_quantize = lambda role, tensor: tensor * scales.get(role, 1)
    expected = 5 * (6 * (plain - shift) + shift)
    for training in (False, True):
        np.testing.assert_allclose(array(layer(x, training=training)), expected, rtol=1e-4, atol=1e-3)


def test_the_norm_is_the_formula_also_far_from_zero():
    x = noise(3, 50) + 300
    layer = built(LayerNorm(), x)
    np.testing.assert_allclose(values(layer, x), norm(layer, x.astype("float64")), atol=3e-4)
    small = built(LayerNorm(0.5, affine=False), x)
    np.testing.assert_allclose(values(small, x - 300), norm(small, x.astype("float64") - 300), atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_norm_that_does_not_centre_divides_by_the_root_of_the_mean_square(training):
    x = noise(3, 50) + 2
    layer = built(LayerNorm(centre=False), x)
    scale, shift = layer.get_weights()
    expected = x / np.sqrt(x.var(-1, keepdims=True) + x.mean(-1, keepdims=True) ** 2) * scale + shift
    np.testing.assert_allclose(array(layer(x, training=training)), expected, atol=1e-5)
    centred = LayerNorm.from_config({**layer.get_config(), "centre": True})
    assert not layer.get_config()["centre"] and centred.centre


def test_the_norm_computes_in_float32():
    """The squares of 300 are beyond float16, and 300 + 1/8 is beyond bfloat16."""
    x = 300 * noise(3, 50)
    layer = built(LayerNorm(dtype="mixed_float16"), x)
    np.testing.assert_allclose(values(layer, x), norm(layer, x.astype("float64")), rtol=5e-3, atol=5e-3)


@pytest.mark.needs_gradients
@pytest.mark.parametrize("shape", [(5, 8), (3, 4, 8), (2, 3, 4, 6)])
@pytest.mark.parametrize("training", [False, True])
def test_the_norm_has_the_gradient_of_its_formula(shape, training):
    """Against differences in float64; in training it is written out by hand."""
    x = 2 * noise(*shape) + 1
    layer = built(LayerNorm(0.1), x)
    weights = [array(w).astype("float64") for w in (layer.scale, layer.shift)]
    direction = noise(*shape, seed=90)  # what `gradients` multiplies the output by

    def total(scale, shift, x):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
        return ((y * scale + shift) * direction).sum()

    at = [*weights, x.astype("float64")]
    for i, gradient in enumerate(gradients(layer, x, training=training)):
        for place in np.ndindex(at[i].shape):
            step = np.zeros_like(at[i])
            step[place] = 1e-5
            ends = [total(*at[:i], at[i] + sign * step, *at[i + 1 :]) for sign in (1, -1)]
            np.testing.assert_allclose(gradient[place], (ends[0] - ends[1]) / 2e-5, atol=2e-5)


@pytest.mark.needs_gradients
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_the_norm_has_its_gradient_in_half_precision_too(dtype):
    x = 20 * noise(3, 4, 8)
    layer = built(LayerNorm(dtype=dtype), x)
    exact = copied(layer, LayerNorm(), x)
    for a, b in zip(gradients(layer, x, training=True), gradients(exact, x), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())


def test_layer_scale_multiplies_channels_and_starts_small():
    x = noise(*TOKENS)
    layer = LayerScale()
    layer.build(x.shape)
    np.testing.assert_array_equal(array(layer.gamma), np.full(8, 1e-5, "float32"))
    layer = built(LayerScale(0.5), x)
    np.testing.assert_allclose(values(layer, x), x * array(layer.gamma), atol=1e-7)


@pytest.mark.parametrize("make", [lambda: Mlp(9), lambda: Mlp(9, approximate=True), lambda: SwiGlu(9)])
def test_mlps_are_their_formulas(make):
    x = 3 * noise(*TOKENS)
    layer = built(make(), x)
    np.testing.assert_allclose(values(layer, x), mlp(layer, x.astype("float64")), atol=3e-6)


def test_the_two_gelus_differ_where_they_should():
    x = 3 * noise(*TOKENS)
    exact = built(Mlp(9), x)
    tanh = copied(exact, Mlp(9, approximate=True), x)
    assert 1e-4 < np.abs(values(exact, x) - values(tanh, x)).max() < 1e-2


@pytest.mark.parametrize("make", [lambda rate: Mlp(64, rate), lambda rate: SwiGlu(64, rate)])
def test_dropout_in_the_middle_keeps_the_expectation(make):
    x = np.repeat(noise(1, 1, 8), 6000, axis=0)
    layer = built(make(0.3), x)
    still = values(layer, x[:1])
    np.testing.assert_array_equal(values(layer, x[:1], training=False), still)
    draws = values(layer, x, training=True)
    assert draws.std(0).min() > 0.01
    np.testing.assert_allclose(draws.mean(0), still[0], atol=5 * draws.std(0).max() / np.sqrt(6000))


@pytest.mark.parametrize("rate", [0.2, 0.7])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_stochastic_depth_drops_whole_examples(rate, dtype):
    x = np.ones((4000, 3, 2), "float32")
    layer = StochasticDepth(rate, seed=3, dtype=dtype)
    np.testing.assert_array_equal(values(layer, x), x)
    np.testing.assert_array_equal(values(layer, x, training=False), x)
    y = values(layer, x, training=True)
    kept = y[:, 0, 0] > 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6 if dtype == "float32" else 4e-3)
    np.testing.assert_array_equal(y[~kept], 0.0)
    deviation = np.sqrt(rate * (1 - rate) / len(x))
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation
    np.testing.assert_allclose(y.mean(), 1.0, atol=4 * deviation / (1 - rate) + 4e-3)
    assert (values(layer, x, training=True) != y).any(), "the next call draws anew"


def test_stochastic_depth_follows_its_seed_and_clears_even_nan():
    x = np.full((64, 2, 2), np.nan, "float32")
    one, two, other = (
        np.isnan(values(built(StochasticDepth(0.5), x, seed=seed), x, training=True)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any() and 0 < one.mean() < 1
    layers_ = [StochasticDepth(0.5, seed=5), StochasticDepth(0.5, seed=5)]
    np.testing.assert_array_equal(*(np.isnan(array(layer(x, training=True))) for layer in layers_))


def test_depth_rates_grow_linearly():
    np.testing.assert_allclose(depth_rates(0.3, 4), [0.0, 0.1, 0.2, 0.3])
    assert depth_rates(0.3, 1) == [0.0] and depth_rates(0.0, 3) == [0.0] * 3 and depth_rates(0.5, 0) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mlp(0), "mlp width must be a positive integer, not 0"),
        (lambda: Mlp(9, dropout=1.0), r"dropout must be in \[0, 1\), not 1.0"),
        (lambda: Mlp(9, approximate="tanh"), "approximate must be True or False, not 'tanh'"),
        (lambda: SwiGlu(-1), "mlp width must be a positive integer, not -1"),
        (lambda: SwiGlu(9, dropout=-0.5), r"dropout must be in \[0, 1\), not -0.5"),
        (lambda: StochasticDepth(1.0), r"stochastic depth must be in \[0, 1\), not 1.0"),
        (lambda: StochasticDepth("0.5"), r"stochastic depth must be in \[0, 1\), not '0.5'"),
        (lambda: StochasticDepth(float("nan")), r"stochastic depth must be in \[0, 1\), not nan"),
        (lambda: LayerScale("small"), "layer_scale must be a finite number, not 'small'"),
        (lambda: LayerScale(float("inf")), "layer_scale must be a finite number, not inf"),
        (lambda: LayerNorm(epsilon=0), "epsilon must be .* not 0"),
        (lambda: LayerNorm(affine=1), "affine must be True or False, not 1"),
        (lambda: Linear(0), "units must be a positive integer, not 0"),
        (lambda: Linear(2.5), "units must be a positive integer, not 2.5"),
        (lambda: Linear(5, use_bias="no"), "use_bias must be True or False, not 'no'"),
        (lambda: Patches(4, 5, use_bias=None), "use_bias must be True or False, not None"),
        (lambda: SinusoidalPositions((2, 3), prefix=-1), "prefix must be a non-negative integer, not -1"),
        (lambda: RelativePositions((2, 3), 0), "heads must be a positive integer, not 0"),
        (lambda: RotaryPositions(0), "multiple of 4.* not 0|positive integer, not 0"),
        (lambda: RotaryPositions(4, base=0.0), "base must be .* not 0.0"),
        (lambda: depth_rates(1.0, 3), r"must be in \[0, 1\), not 1.0"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.needs_gradients
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_norms_gradient_that_is_written_out_is_the_derived_one(dtype):
    layer = built(LayerNorm(1e-3, dtype=dtype), noise(*TOKENS))
    written, derived = (gradients(layer, 3 * noise(*TOKENS) + 1, training=t) for t in (True, False))
    for a, b in zip(written, derived, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == "float32" else 0.02, atol=1e-5)


def test_mixed_precision_does_not_round_a_norms_scale():
    """In bfloat16 1.003 is 1. Each output is rounded too, but not their mean over many."""
    x = noise(1, 4000, 8)
    layer = built(LayerNorm(dtype="mixed_bfloat16"), x)
    layer.shift.assign(np.zeros(8, "float32"))
    sizes = []
    for scale in (1.0, 1.003):
        layer.scale.assign(np.full(8, scale, "float32"))
        sizes.append(np.abs(values(layer, x)).mean(dtype="float64"))
    assert sizes[1] / sizes[0] == pytest.approx(1.003, abs=5e-4)
