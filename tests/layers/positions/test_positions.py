"""Every position encoding against NumPy, and the promise that padding changes nothing."""

import functools

import jax
import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.errors import InputError
from keras_vit.layers.positions import (
    POSITION_LAYERS,
    CoordinatePositions,
    FactorisedPositions,
    LearnedPositions,
    OneHotPositions,
    RelativePositions,
    RotaryPositions,
    SinCos2DPositions,
    SinusoidalPositions,
    positions_for,
)
from keras_vit.layers.positions.rotary import rotate

GRID, WIDTH, HEADS = (3, 4), 16, 2
MAKERS = {
    **{kind: functools.partial(positions_for, kind, GRID, 2, WIDTH, HEADS) for kind in POSITION_LAYERS},
    "sincos2d_mae": lambda **kw: SinCos2DPositions(GRID, 2, convention="mae", **kw),
    "coordinates01": lambda **kw: CoordinatePositions(GRID, 2, low=0.0, high=1.0, **kw),
}
FIXED = ("rotary2d", "relative", "none")  # these leave tokens as they are


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(x):
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")))


def made(kind, **kwargs):
    """A built layer with weights far from their initial values, so that a wrong use of them shows."""
    layer = MAKERS[kind](**kwargs)
    layer.build((None, 2 + GRID[0] * GRID[1], WIDTH))
    layer.set_weights([noise(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def added(layer, grid=None, sizes=None, width=WIDTH, prefix=2):
    """What the layer adds to tokens: (prefix rows, patch rows [B, rows, columns, D])."""
    rows, columns = grid or GRID
    batch = 1 if sizes is None else len(sizes)
    tokens = np.zeros((batch, prefix + rows * columns, width), "float32")
    answer = array(layer(tokens, grid=grid, sizes=None if sizes is None else np.asarray(sizes, "int32")))
    assert answer.shape == tokens.shape
    return answer[:, :prefix], answer[:, prefix:].reshape(batch, rows, columns, width)


def bicubic(table, rows, columns):
    return np.asarray(jax.image.resize(table, (rows, columns, table.shape[-1]), "cubic", antialias=True))


def sines(positions, frequencies):
    angles = np.asarray(positions, "float64")[..., None] * frequencies
    return np.sin(angles), np.cos(angles)


# Each kind again, by loops and textbook formulas; (grid, weights) -> [rows, columns, D].


def learned(grid, weights):
    return bicubic(weights[0][0, 2:].reshape(*GRID, WIDTH), *grid)


def sinusoidal(grid, weights):
    table = np.zeros((grid[0] * grid[1], WIDTH))
    for p in range(len(table)):
        for i in range(0, WIDTH, 2):
            table[p, i] = np.sin(p / 10000 ** (i / WIDTH))
            table[p, i + 1] = np.cos(p / 10000 ** (i / WIDTH))
    return table.reshape(*grid, WIDTH)


def sincos2d(grid, weights):
    y, x = np.mgrid[: grid[0], : grid[1]]
    frequencies = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH // 4 - 1))
    return np.concatenate([*sines(x, frequencies), *sines(y, frequencies)], axis=-1)


def sincos2d_mae(grid, weights):
    y, x = np.mgrid[: grid[0], : grid[1]]
    frequencies = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH // 4))
    return np.concatenate([*sines(x, frequencies), *sines(y, frequencies)], axis=-1)


def sincos2d_timm(grid, weights):
    y, x = np.mgrid[: grid[0], : grid[1]]
    frequencies = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH // 4))
    return np.concatenate([*sines(y, frequencies), *sines(x, frequencies)], axis=-1)


def factorised(grid, weights):
    rows = bicubic(weights[0][:, None], grid[0], 1)
    columns = bicubic(weights[1][None], 1, grid[1])
    return rows + columns


def coordinates(grid, weights, low=-1.0):
    table = np.zeros((*grid, WIDTH))
    for r in range(grid[0]):
        for c in range(grid[1]):
            y = low + (1 - low) * (r / (grid[0] - 1) if grid[0] > 1 else 0.5)
            x = low + (1 - low) * (c / (grid[1] - 1) if grid[1] > 1 else 0.5)
            table[r, c] = y * weights[0][0] + x * weights[0][1]
    return table


def coordinates01(grid, weights):
    return coordinates(grid, weights, low=0.0)


def one_hot(grid, weights):
    table = np.zeros((*grid, WIDTH))
    for r in range(grid[0]):
        for c in range(grid[1]):
            table[r, c, r] = table[r, c, WIDTH // 2 + c] = 1
    return table


REFERENCES = {
    f.__name__: f
    for f in (
        learned,
        sinusoidal,
        sincos2d,
        sincos2d_mae,
        sincos2d_timm,
        factorised,
        coordinates,
        coordinates01,
        one_hot,
    )
}


@pytest.mark.parametrize("grid", [GRID, (5, 7), (2, 3), (1, 6), (6, 1)])
@pytest.mark.parametrize("kind", REFERENCES)
def test_what_is_added_is_the_formula_at_every_grid(kind, grid):
    layer = made(kind)
    prefix, patches = added(layer, grid)
    expected = REFERENCES[kind](grid, layer.get_weights())
    np.testing.assert_allclose(patches[0], expected, atol=5e-6)
    np.testing.assert_array_equal(prefix[0], layer.get_weights()[0][0, :2] if kind == "learned" else 0.0)
    np.testing.assert_allclose(array(layer.encode(grid)).reshape(expected.shape), expected, atol=5e-6)


@pytest.mark.parametrize("kind", REFERENCES)
def test_the_encoding_is_added_to_the_tokens(kind):
    layer, tokens = made(kind), noise(3, 2 + 12, WIDTH)
    prefix, patches = added(layer)
    table = np.concatenate([prefix, patches.reshape(1, 12, WIDTH)], axis=1)
    np.testing.assert_allclose(array(layer(tokens)), tokens + table, atol=1e-6)
    assert np.abs(patches).max() > 0.1


@pytest.mark.parametrize("kind", MAKERS)
def test_an_example_in_a_padded_batch_gets_what_it_gets_alone(kind):
    layer, sizes = made(kind), [(3, 4), (5, 2), (1, 6), (2, 1), (0, 0)]
    near_prefix, near = added(layer, (5, 6), sizes)
    far_prefix, far = added(layer, (8, 7), sizes)
    assert np.isfinite(near).all() and np.isfinite(far).all()
    np.testing.assert_array_equal(near_prefix, far_prefix)
    for b, (r, c) in enumerate(sizes[:-1]):
        alone_prefix, alone = added(layer, (r, c))
        np.testing.assert_allclose(near[b, :r, :c], alone[0], atol=1e-6)
        np.testing.assert_allclose(far[b, :r, :c], alone[0], atol=1e-6)
        np.testing.assert_array_equal(near_prefix[b], alone_prefix[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_what_the_attention_gets_for_a_patch_does_not_depend_on_the_canvas(kind):
    layer = made(kind)
    small, large = layer.for_attention((2, 3), prefix=1), layer.for_attention((5, 6), prefix=1)
    assert set(small) == ({"rotary": {"rotary"}, "relative": {"bias"}}.get(kind.removesuffix("2d"), set()))
    real = [
        0,
        *(1 + 6 * r + c for r in range(2) for c in range(3)),
    ]  # where the small grid sits in the large one
    if kind == "rotary2d":
        for a, b in zip(small["rotary"], large["rotary"], strict=True):
            np.testing.assert_array_equal(b[real], a)
    if kind == "relative":
        np.testing.assert_array_equal(array(large["bias"])[:, real][:, :, real], array(small["bias"]))


@pytest.mark.parametrize("kind", MAKERS)
def test_it_works_inside_a_functional_model_that_is_saved_and_loaded(kind, tmp_path):
    tokens, sizes = keras.Input((2 + 5 * 6, WIDTH)), keras.Input((2,), dtype="int32")
    layer = MAKERS[kind](name="positions")
    model = keras.Model([tokens, sizes], layer(tokens, grid=(5, 6), sizes=sizes))
    assert model.output_shape == (None, 32, WIDTH)
    layer.set_weights([noise(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, s = noise(2, 32, WIDTH), np.array([[5, 6], [2, 3]], "int32")
    expected = array(layer(x, grid=(5, 6), sizes=s))
    np.testing.assert_allclose(array(loaded([x, s])), expected, atol=1e-6)
    assert np.abs(expected - x).max() > 0.1 or kind in FIXED


@pytest.mark.parametrize("kind", MAKERS)
def test_a_layer_rebuilt_from_its_config_computes_the_same(kind):
    layer = made(kind)
    keras.config.set_floatx("float64")  # a global setting must not reach a layer that has its own
    try:
        twin = type(layer).from_config(layer.get_config())
        twin.build((None, 14, WIDTH))
    finally:
        keras.config.set_floatx("float32")
    twin.set_weights(layer.get_weights())
    assert twin.get_config() == layer.get_config()
    for grid in (GRID, (2, 5)):
        tokens = noise(1, 2 + grid[0] * grid[1], WIDTH)
        np.testing.assert_array_equal(array(twin(tokens, grid=grid)), array(layer(tokens, grid=grid)))
        ours, theirs = layer.for_attention(grid, 2), twin.for_attention(grid, 2)
        for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
            np.testing.assert_array_equal(array(a), array(b))


@pytest.mark.parametrize("kind", MAKERS)
def test_half_precision_rounds_once_at_the_end(kind):
    layer, half = made(kind), made(kind, dtype="mixed_bfloat16")
    tokens, sizes = np.zeros((2, 2 + 20, WIDTH), "float32"), np.array([[4, 5], [2, 3]], "int32")
    answer = half(tokens, grid=(4, 5), sizes=sizes)
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16"
    exact = ops.cast(ops.cast(layer(tokens, grid=(4, 5), sizes=sizes), "bfloat16"), "float32")
    np.testing.assert_array_equal(array(answer), array(exact))
    tokens = tokens[:, :14]
    np.testing.assert_array_equal(
        array(half(tokens)), array(ops.cast(ops.cast(layer(tokens), "bfloat16"), "float32"))
    )


@pytest.mark.parametrize("kind", ["learned", "factorised", "relative", "sincos2d", "rotary2d", "none"])
def test_a_layer_made_for_another_grid_from_resized_weights_computes_the_same(kind):
    layer, new = made(kind), (5, 6)
    other = positions_for(kind, new, 2, WIDTH, HEADS)
    other.build((None, 2 + 30, WIDTH))
    weights = layer.resized(new)
    assert [w.dtype for w in weights] == ["float32"] * len(weights)
    other.set_weights(weights)
    tokens = noise(1, 32, WIDTH)
    np.testing.assert_allclose(array(other(tokens)), array(layer(tokens, grid=new)), atol=1e-5)
    if kind == "relative":
        image = layer.get_weights()[0]
        np.testing.assert_allclose(weights[0], bicubic(image, 9, 11), atol=1e-5)
        np.testing.assert_allclose(weights[0][4, 5], image[2, 3], atol=1e-6)  # offset 0 stays offset 0
    if kind == "learned":
        np.testing.assert_array_equal(weights[0][0, :2], layer.get_weights()[0][0, :2])


def test_a_sequence_counts_along_its_length():
    layer = SinusoidalPositions(6)
    assert layer.grid == (1, 6)
    _, patches = added(layer, (1, 6), width=8, prefix=0)
    angles = np.arange(6)[:, None] / 10000 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(patches[0, 0, :, 0::2], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(patches[0, 0, :, 1::2], np.cos(angles), atol=1e-6)
    np.testing.assert_array_equal(array(layer(np.zeros((1, 4, 8)), grid=4)), patches[:, 0, :4])


def test_one_hot_positions_of_a_sequence_take_all_channels():
    _, patches = added(OneHotPositions(7), (1, 7), width=7, prefix=0)
    np.testing.assert_array_equal(patches[0, 0], np.eye(7))


def test_one_hot_positions_give_the_odd_channel_to_the_columns():
    _, patches = added(OneHotPositions((2, 3)), (2, 3), width=5, prefix=0)
    np.testing.assert_array_equal(patches[0, 1, 2], [0, 1, 0, 0, 1])


def test_the_four_channels_of_the_narrowest_sincos2d_are_finite():
    _, patches = added(SinCos2DPositions((2, 2)), (2, 2), width=4, prefix=0)
    expected = [np.sin(1), np.cos(1), 0, 1]
    np.testing.assert_allclose(patches[0, 0, 1], expected, atol=1e-6)


def test_learned_positions_start_small_and_their_table_can_be_read():
    layer = LearnedPositions((20, 30), prefix=1)
    layer.build((None, 601, 32))
    table = array(layer.table)
    assert table.shape == (1, 601, 32)
    assert abs(table.std() - 0.02) < 1e-3 and abs(table.mean()) < 1e-3
    assert len(layer.weights) == 1
    factorised = FactorisedPositions((20, 30))
    factorised.build((None, 600, 32))
    assert [w.shape for w in factorised.weights] == [(20, 32), (30, 32)]


@pytest.mark.needs_gradients
@pytest.mark.parametrize("kind", ["learned", "factorised", "coordinates"])
def test_every_weight_learns_also_through_a_resize(kind):
    tokens, sizes = keras.Input((2 + 30, WIDTH)), keras.Input((2,), dtype="int32")
    layer = MAKERS[kind]()
    model = keras.Model([tokens, sizes], layer(tokens, grid=(5, 6), sizes=sizes))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    before = layer.get_weights()
    x = noise(2, 32, WIDTH)
    model.train_on_batch([x, np.array([[5, 6], [3, 4]], "int32")], x + 1)
    for old, new in zip(before, layer.get_weights(), strict=True):
        assert (old != new).all()


# Rotary and relative positions.


def test_rotary_angles_are_those_of_the_paper():
    cos, sin = RotaryPositions(8, base=100.0).for_attention((2, 3), prefix=1)["rotary"]
    assert cos.shape == sin.shape == (7, 8)
    assert cos.dtype == sin.dtype == "float32"
    np.testing.assert_array_equal(cos[0], 1.0)
    np.testing.assert_array_equal(sin[0], 0.0)
    theta = np.array([1.0, 0.1])  # 100^(-t / 2)
    for r in range(2):
        for c in range(3):
            angles = np.concatenate([r * theta, r * theta, c * theta, c * theta])
            np.testing.assert_allclose(cos[1 + 3 * r + c], np.cos(angles), atol=1e-6)
            np.testing.assert_allclose(sin[1 + 3 * r + c], np.sin(angles), atol=1e-6)


def test_rotating_is_a_product_of_complex_numbers():
    x = noise(2, 3, 7, 8)
    rotary = RotaryPositions(8).for_attention((2, 3), prefix=1)["rotary"]
    answer = array(rotate(x, *rotary))
    theta = np.array([1.0, 0.1])
    rows, columns = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 0, 1, 2])
    for half, position in ((x[..., :4], rows), (x[..., 4:], columns)):
        turned = (half[..., :2] + 1j * half[..., 2:]) * np.exp(1j * position[:, None] * theta)
        start = 0 if position is rows else 4
        np.testing.assert_allclose(answer[..., start : start + 2], turned.real, atol=1e-6)
        np.testing.assert_allclose(answer[..., start + 2 : start + 4], turned.imag, atol=1e-6)


def test_rotation_keeps_norms_and_scores_depend_on_offsets_only():
    q, k = (np.broadcast_to(noise(1, 2, 1, 8, seed=s), (1, 2, 20, 8)) for s in (0, 1))
    rotary = RotaryPositions(8).for_attention((4, 5))["rotary"]
    q_, k_ = array(rotate(q, *rotary)), array(rotate(k, *rotary))
    np.testing.assert_allclose(np.linalg.norm(q_, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)
    scores = np.einsum("bhnd,bhmd->bhnm", q_, k_)[0].reshape(2, 4, 5, 4, 5)
    np.testing.assert_allclose(scores[:, 1:, 2:, 1:, 2:], scores[:, :-1, :-2, :-1, :-2], atol=1e-5)
    assert np.abs(scores[:, 1, 0, 0, 0] - scores[:, 0, 0, 0, 0]).min() > 1e-3  # rows matter
    assert np.abs(scores[:, 0, 1, 0, 0] - scores[:, 0, 0, 0, 0]).min() > 1e-3  # columns matter


def test_each_example_may_have_angles_of_its_own():
    x = noise(2, 3, 4, 8)
    angles = [RotaryPositions(8).for_attention(grid)["rotary"] for grid in ((2, 2), (1, 4))]
    cos, sin = (np.stack(part) for part in zip(*angles, strict=True))
    answer = array(rotate(x, cos, sin))
    for b in range(2):
        np.testing.assert_allclose(answer[b], array(rotate(x, *angles[b]))[b], atol=1e-6)


def test_rotation_keeps_the_type_of_its_input():
    x = ops.cast(noise(1, 1, 4, 8), "bfloat16")
    answer = rotate(x, *RotaryPositions(8).for_attention((2, 2))["rotary"])
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16"


def test_the_relative_bias_is_the_table_at_the_offset():
    layer = made("relative")
    table = layer.get_weights()[0]
    assert table.shape == (5, 7, HEADS)
    bias = array(layer.for_attention(GRID, prefix=2)["bias"])
    assert bias.shape == (HEADS, 14, 14)
    np.testing.assert_array_equal(bias[:, :2], 0.0)
    np.testing.assert_array_equal(bias[:, :, :2], 0.0)
    for i in range(12):
        for j in range(12):
            offset = i // 4 - j // 4 + 2, i % 4 - j % 4 + 3
            np.testing.assert_array_equal(bias[:, 2 + i, 2 + j], table[offset])


def test_the_relative_bias_takes_the_edge_of_the_table_beyond_it():
    layer = made("relative")
    table = layer.get_weights()[0]
    bias = array(layer.for_attention((6, 9))["bias"]).reshape(HEADS, 6, 9, 6, 9)
    np.testing.assert_array_equal(bias[:, 5, 0, 0, 8], table[4, 0])
    np.testing.assert_array_equal(bias[:, 0, 1, 3, 0], table[0, 4])
    np.testing.assert_array_equal(bias[:, 1:, 1:, 1:, 1:], bias[:, :-1, :-1, :-1, :-1])


def test_the_relative_bias_starts_at_zero():
    layer = RelativePositions((2, 2), 3)
    layer.build((None, 4, 12))
    np.testing.assert_array_equal(array(layer.for_attention((2, 2), prefix=1)["bias"]), np.zeros((3, 5, 5)))


# What a user gets told.


@pytest.mark.parametrize("kind", MAKERS)
def test_tokens_that_do_not_fit_the_grid_are_refused_where_they_matter(kind):
    layer = made(kind)
    if kind in FIXED:
        assert layer(noise(1, 7, WIDTH)).shape == (1, 7, WIDTH)
        return
    expected = r"tokens of shape \[1, 13, 16\] do not fit the grid 3x4 with 2 .* takes \[batch, 14, 16\]"
    with pytest.raises(InputError, match=expected):
        layer(noise(1, 13, WIDTH))
    with pytest.raises(InputError, match=r"\[1, 14, 16\] do not fit the grid 4x4 .* \[batch, 18, 16\]"):
        layer(noise(1, 14, WIDTH), grid=(4, 4))
    with pytest.raises(InputError, match=r"\[1, 14, 1\] do not fit .* \[batch, 14, 16\]"):
        layer(noise(1, 14, 1))


@pytest.mark.parametrize(
    ("make", "width", "message"),
    [
        (lambda: SinCos2DPositions((2, 2)), 18, "sincos2d .* multiple of 4, not 18: use e.g. 20"),
        (lambda: SinusoidalPositions((2, 2)), 5, "sinusoidal .* multiple of 2, not 5: use e.g. 6"),
        (lambda: OneHotPositions((5, 3)), 8, "at most 4 rows and 4 columns, not 5x3"),
        (lambda: OneHotPositions(9), 8, "at most 1 rows and 8 columns, not 1x9"),
        (lambda: RotaryPositions(6), 8, "multiple of 4, not 6"),
        (
            lambda: CoordinatePositions((2, 2), low=-2.0),
            8,
            "from -1 to 1 or from 0 to 1, not from -2.0 to 1.0",
        ),
        (
            lambda: SinCos2DPositions((2, 2), convention="tim"),
            8,
            "unknown convention 'tim'.*Did you mean 'timm'",
        ),
        (lambda: LearnedPositions((0, 3)), 8, "grid must be"),
        (lambda: LearnedPositions(True), 8, "grid must be"),
        (lambda: positions_for("learnt", (2, 2), 0, 8, 2), 8, "unknown position 'learnt'.*'learned'"),
    ],
)
def test_what_does_not_suit_is_refused(make, width, message):
    with pytest.raises(InputError, match=message):
        make().build((None, 4, width))


def test_a_call_beyond_the_one_hot_channels_is_refused():
    layer = made("one_hot")
    with pytest.raises(InputError, match="at most 8 rows and 8 columns, not 9x1"):
        layer(noise(1, 11, WIDTH), grid=(9, 1))


def test_sizes_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"sizes must have the shape \[batch, 2\].* not \[2\]"):
        made("learned")(noise(1, 14, WIDTH), sizes=np.array([3, 4], "int32"))
