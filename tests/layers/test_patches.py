"""Input to tokens by cutting: against NumPy loops, and the promises about masks of every such layer."""

import functools
import itertools

import keras
import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.layers import Patches, SpectrogramPatches, Tubelets
from keras_vit.layers.stems import CompactStem, ConvPatches, OverlappingPatches

# A layer, the input it gets alone, and the larger canvas that it stands at the start of.
LAYERS = {
    "patches": (lambda: Patches((4, 2), 5), (2, 8, 6, 3), (2, 12, 10, 3)),
    "convolution": (lambda: ConvPatches((4, 2), 5), (2, 8, 6, 3), (2, 12, 10, 3)),
    "overlapping": (lambda: OverlappingPatches((2, 4), 5), (2, 6, 8, 3), (2, 10, 20, 3)),
    "compact": (lambda: CompactStem(4, 5, hidden=6), (2, 8, 12, 3), (2, 20, 16, 3)),
    "tubelets": (lambda: Tubelets((2, 4, 2), 5), (2, 4, 8, 6, 3), (2, 6, 12, 6, 3)),
    "spectrogram": (lambda: SpectrogramPatches((4, 2), 5, use_bias=False), (2, 8, 6, 1), (2, 16, 6, 1)),
    "spectrogram with overlap": (lambda: SpectrogramPatches(4, 5, stride=(3, 2)), (2, 10, 8), (2, 16, 12)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@functools.cache
def built(name):
    """The layer, its input, and both with weights (biases too) that are far from zero."""
    make, small, _ = LAYERS[name]
    layer, x = make(), data(small)
    layer(x)
    layer.set_weights([data(w.shape, i) * 0.3 for i, w in enumerate(layer.weights, start=1)])
    return layer, x


def grid_of(layer, shape):
    axes = {"SpectrogramPatches": shape[1:3]}.get(type(layer).__name__, shape[1:-1])
    return layer.grid(*axes)


def canvas(name, content, at_end=False):
    """(small input on a canvas filled with `content`, mask of its tokens)."""
    layer, x = built(name)
    shape = LAYERS[name][2]

    def corner(sizes):
        return (slice(None), *(slice(-n, None) if at_end else slice(n) for n in sizes))

    large = np.full(shape, content, "float32")
    large[corner(x.shape[1:])] = x
    mask = np.zeros((shape[0], *grid_of(layer, shape)), "bool")
    mask[corner(grid_of(layer, x.shape))] = True
    return large, mask.reshape(shape[0], -1)


def pieces(x, patch, stride=None):
    """[B, N, *patch, ...]: every window, one by one."""
    stride = stride or patch
    starts = [
        range(0, n - p + 1, s) for n, p, s in zip(x.shape[1 : 1 + len(patch)], patch, stride, strict=True)
    ]
    windows = [
        x[(slice(None), *(slice(i, i + p) for i, p in zip(at, patch, strict=True)))]
        for at in itertools.product(*starts)
    ]
    return np.stack(windows, axis=1)


def linear(layer, x):
    kernel, *bias = (np.asarray(w, "float64") for w in layer.get_weights())
    return x.reshape(*x.shape[:2], -1) @ kernel + sum(bias)


@pytest.mark.parametrize("name", ["patches", "convolution", "tubelets"])
def test_tokens_are_projected_pieces(name):
    layer, x = built(name)
    size = layer.tubelet_size if name == "tubelets" else layer.patch_size
    np.testing.assert_allclose(np.asarray(layer(x)), linear(layer, pieces(x, size)), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in LAYERS if "spectrogram" in n])
def test_spectrogram_tokens_are_projected_windows(name):
    layer, x = built(name)
    expected = linear(layer, pieces(x, layer.patch_size, layer.stride))
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=1e-5)


def test_the_published_grids():
    # AST: 12 floor((100 t - 16) / 10) for t seconds; its code counts the first window as well.
    assert SpectrogramPatches(16, 8, stride=10).grid(1024, 128) == (101, 12)
    assert SpectrogramPatches(16, 8).grid(1024, 128) == (64, 8)
    assert Tubelets((2, 16, 16), 8).grid(32, 224, 224) == (16, 14, 14)
    assert Patches((16, 8), 8).grid(32, 64) == (2, 8)


def test_overlap_leaves_out_the_frames_that_fill_no_patch():
    layer, x = built("spectrogram with overlap")
    longer = np.concatenate([x, np.full((2, 2, 8), np.nan, "float32")], axis=1)
    np.testing.assert_array_equal(np.asarray(layer(longer)), np.asarray(layer(x)))


@every_layer
def test_padding_changes_nothing_and_its_tokens_are_zero(name):
    layer, x = built(name)
    alone = np.asarray(layer(x))
    for content, at_end in ((7.0, False), (np.nan, False), (np.inf, False), (np.nan, True)):
        large, mask = canvas(name, content, at_end)
        tokens = np.asarray(layer(large, mask=mask))
        np.testing.assert_allclose(tokens[mask].reshape(alone.shape), alone, atol=1e-6)
        np.testing.assert_array_equal(tokens[~mask], 0.0)


@every_layer
def test_a_mask_with_holes_hides_them(name):
    layer, _ = built(name)
    x = data(LAYERS[name][2])
    mask = np.random.default_rng(1).random((2, np.prod(grid_of(layer, x.shape)))) < 0.6
    tokens = np.asarray(layer(x, mask=mask))
    np.testing.assert_array_equal(tokens[~mask], 0.0)
    np.testing.assert_allclose(np.asarray(layer(x, mask=mask.astype("float32"))), tokens, atol=1e-6)
    plain, all_real = np.asarray(layer(x)), np.asarray(layer(x, mask=np.ones_like(mask)))
    np.testing.assert_allclose(all_real, plain, atol=1e-6)
    if name not in ("overlapping", "compact"):  # no token sees what a mask of another one hides
        np.testing.assert_allclose(tokens[mask], plain[mask], atol=1e-6)


@every_layer
def test_the_size_may_change_from_call_to_call(name):
    layer, _ = built(name)
    x = data(LAYERS[name][2])
    fresh = type(layer).from_config(layer.get_config())
    fresh(x)
    fresh.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.asarray(layer(x)), np.asarray(fresh(x)))


@every_layer
def test_a_layer_rebuilt_from_its_config_computes_the_same(name):
    layer, x = built(name)
    keras.config.set_image_data_format("channels_first")  # must not reach a layer
    try:
        twin = keras.layers.deserialize(keras.layers.serialize(layer))
        twin.set_weights(layer.get_weights())
        np.testing.assert_array_equal(np.asarray(twin(x)), np.asarray(layer(x)))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert twin.get_config() == layer.get_config()
    assert twin.compute_output_shape(x.shape) == tuple(layer(x).shape)


@every_layer
def test_half_precision_stays_close(name):
    layer, _ = built(name)
    large, mask = canvas(name, np.nan)
    half = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    half.build(large.shape)
    half.set_weights(layer.get_weights())
    answer = half(large, mask=mask)
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16"
    answer = np.asarray(keras.ops.cast(answer, "float32"))
    np.testing.assert_allclose(answer, np.asarray(layer(large, mask=mask)), atol=0.15)


def model_of(layer, shape, tokens):
    """A model with the inputs "x" and "mask"."""
    inputs = {
        "x": keras.Input(shape[1:], name="x"),
        "mask": keras.Input((tokens,), dtype="bool", name="mask"),
    }
    return keras.Model(inputs, layer(inputs["x"], mask=inputs["mask"]))


@every_layer
@pytest.mark.filterwarnings("error:.*mask:UserWarning")
def test_a_saved_model_with_a_mask_input_answers_the_same(name, tmp_path):
    layer, _ = built(name)
    large, mask = canvas(name, np.nan)
    model_of(layer, large.shape, mask.shape[1]).save(tmp_path / "model.keras")
    answer = keras.saving.load_model(tmp_path / "model.keras")({"x": large, "mask": mask})
    np.testing.assert_allclose(np.asarray(answer), np.asarray(layer(large, mask=mask)), atol=1e-6)


@every_layer
@pytest.mark.needs_gradients
def test_padding_of_nan_does_not_reach_the_gradients(name):
    layer, _ = built(name)
    start = layer.get_weights()
    model = model_of(layer, LAYERS[name][2], None)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    after = []
    for content in (0.0, np.nan):
        large, mask = canvas(name, content)
        model.train_on_batch({"x": large, "mask": mask}, np.ones((*mask.shape, 5), "float32"))
        after.append(model.get_weights())
        model.set_weights(start)
    for before, zero, nan in zip(start, *after, strict=True):
        assert np.abs(zero - before).max() > 1e-6
        np.testing.assert_allclose(nan, zero, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: Patches((4, 2), 5), (2, 9, 6, 3), "image of 9x6 is not a multiple of the patch 4x2.* 8x6"),
        (lambda: ConvPatches(4, 5), (2, 8, 6, 3), "image of 8x6 is not a multiple of the patch 4x4"),
        (lambda: OverlappingPatches(4, 5), (2, 2, 8, 3), "image of 2x8 is not a multiple of the patch 4x4"),
        (lambda: CompactStem(4, 5), (2, 8, 6, 3), "image of 8x6 is not a multiple of the patch 4x4"),
        (lambda: Tubelets((2, 4, 4), 5), (2, 3, 8, 8, 3), "video of 3x8x8 is not .* tubelet 2x4x4.* 4x8x8"),
        (
            lambda: SpectrogramPatches(4, 5),
            (2, 9, 8),
            "spectrogram of 9x8 is not a multiple of the patch 4x4.* 8x8",
        ),
        (
            lambda: SpectrogramPatches(4, 5, stride=(4, 2)),
            (2, 9, 7),
            "of 9x7 is not a multiple of the patch 4x1.* 8x7",
        ),
        (lambda: SpectrogramPatches(4, 5, stride=3), (2, 3, 8), "of 3x8 is smaller than the patch 4x4"),
        (lambda: SpectrogramPatches(4, 5), (2, 8, 8, 3), r"\[B, frames, bins, 1\], not \(2, 8, 8, 3\)"),
        (lambda: SpectrogramPatches(4, 5), (2, 8), r"expected the shape \[B, frames, bins\]"),
        (lambda: Patches(4, 5), (2, 8, 8), r"expected the shape \[B, H, W, C\].* not \(2, 8, 8\)"),
        (lambda: CompactStem(4, 5), (2, 8, 8), r"expected the shape \[B, H, W, C\].* not \(2, 8, 8\)"),
        (lambda: Tubelets((2, 4, 4), 5), (2, 8, 8, 3), r"expected the shape \[B, T, H, W, C\]"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(make, shape, message):
    with pytest.raises(InputError, match=message) as error:
        make()(np.zeros(shape, "float32"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patches(0, 5), "patch_size must be a positive integer"),
        (lambda: Patches(4, 0), "width must be a positive integer, not 0"),
        (lambda: Tubelets((4, 4), 5), r"three positive integers .* not \(4, 4\)"),
        (lambda: Tubelets((0, 4, 4), 5), r"three positive integers .* not \(0, 4, 4\)"),
        (lambda: Tubelets(4, 5), "three positive integers .* not 4"),
        (lambda: SpectrogramPatches(4, 5, stride=(2, 6)), "stride 2x6 is larger than the patch 4x4"),
        (lambda: SpectrogramPatches(4, 5, stride=0), "stride must be a positive integer"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@every_layer
def test_only_the_batch_may_be_unknown(name):
    layer, x = built(name)
    unknown = keras.Input((None, *x.shape[2:]))
    with pytest.raises(InputError, match="with only the batch unknown"):
        layer(unknown)
    assert layer(keras.Input(x.shape[1:])).shape == (None, *layer(x).shape[1:])


@pytest.mark.parametrize("name", [n for n in LAYERS if "spectrogram" not in n])
def test_other_channels_than_at_the_start_are_refused(name):
    layer, x = built(name)
    with pytest.raises(InputError, match=f"built for {x.shape[-1]} channels, not for the 4"):
        layer(np.zeros((*x.shape[:-1], 4), "float32"))


@every_layer
def test_a_mask_of_another_shape_is_refused(name):
    layer, x = built(name)
    count = layer(x).shape[1]
    for shape in ((2, count + 1), (1, count), (2, count, 1)):
        with pytest.raises(InputError, match="one value per token, True = real"):
            layer(x, mask=np.ones(shape, "bool"))
