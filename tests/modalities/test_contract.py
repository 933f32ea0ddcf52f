"""What every modality promises, one of a user's own included: shapes, masks, absence, configs, errors."""

import dataclasses
import functools
import inspect
import json
import textwrap

import keras
import numpy as np
import pytest
from harness import Case, array, built, each_check, gradients, noise, values
from keras import ops
from references import attention, mlp, norm

from keras_vit import modalities
from keras_vit.errors import InputError
from keras_vit.layers import Patches, SpectrogramPatches, Tubelets
from keras_vit.layers.quantization import identity
from keras_vit.modalities import (
    Action,
    Audio,
    CaptionDecoder,
    Image,
    LogMel,
    Modality,
    Text,
    Video,
    VisualPrediction,
    base,
)


def example_of_the_docs():
    """`Table`, from the source text in the docstring, word for word."""
    text = base.__doc__
    text = textwrap.dedent(text[text.index("    import keras\n") : text.index("\n\nIt takes part")])
    names = {}
    exec(compile(text, "docstring of keras_vit/modalities/base.py", "exec"), names)
    return names["Table"], text


Table, TABLE_TEXT = example_of_the_docs()
WORDS = ["red", "ball", "cube", "球", "what", "is"]


def ids(high, *shape, low=0, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype("int32")


TEXT = np.array([[2, 3, 7, 1], [5, 4, 0, 0], [0, 0, 0, 0]], "int32")
NUMBERS = np.where(noise(3, 5, seed=4) > 1, np.nan, noise(3, 5)).astype("float32")
TRACK = np.concatenate([noise(3, 3, 2), np.zeros((3, 1, 2), "float32")], axis=1)

# How it is made, what goes in, which tokens are real.
EVERY = {
    "image": (functools.partial(Image, (8, 6), (4, 2)), noise(3, 8, 6, 3), None),
    "image compact": (functools.partial(Image, 8, 4, 1, "compact", "sincos2d"), noise(3, 8, 8, 1), None),
    "image encoded": (
        functools.partial(Image, 8, 4, depth=1, num_heads=2, mlp_width=9),
        noise(3, 8, 8, 3),
        None,
    ),
    "video": (functools.partial(Video, 4, (8, 4), 4), noise(3, 4, 8, 4, 3), None),
    "video of one frame": (functools.partial(Video, 1, 8, 4, channels=1), noise(3, 1, 8, 8, 1), None),
    "audio": (
        functools.partial(Audio, 900, 4000, (4, 8), mels=16, position="sincos2d"),
        np.clip(0.3 * noise(3, 900), -1, 1),
        None,
    ),
    "text": (functools.partial(Text, WORDS, 4), TEXT, TEXT != 0),
    "text encoded": (functools.partial(Text, 8, 4, depth=1, num_heads=2), TEXT, TEXT != 0),
    "sentence": (
        functools.partial(Text, WORDS, 4, 3, num_heads=2, mlp_width=9, dropout=0.5),
        TEXT,
        np.repeat([[True], [True], [False]], 3, axis=1),
    ),
    "action": (functools.partial(Action, 4, 2), noise(3, 4, 2), None),
    "action padded": (functools.partial(Action, 4, 2, padding=0.0), TRACK, np.tile([1, 1, 1, 0], (3, 1)) > 0),
    "action ids": (functools.partial(Action, 4, values=3), ids(5, 3, 4, low=-1), None),
    "table": (functools.partial(Table, 5), NUMBERS, ~np.isnan(NUMBERS)),
}
EVERY["action ids"] = (*EVERY["action ids"][:2], (EVERY["action ids"][1] >= 0) & (EVERY["action ids"][1] < 3))
every = pytest.mark.parametrize("name", EVERY)
FLOATS = [name for name in EVERY if EVERY[name][1].dtype == "float32"]


@functools.cache
def modality(name):
    make, inputs, _ = EVERY[name]
    return built(make(width=8), inputs)


def reals(name):
    _, inputs, real = EVERY[name]
    return np.ones((len(inputs), modality(name).tokens), bool) if real is None else real


@dataclasses.dataclass(frozen=True)
class Raw(Case):
    """A case with inputs of its own: ids, or waveforms."""

    given: tuple = ()

    @property
    def inputs(self):
        return [np.array(x) for x in self.given]


# Inputs of float32 are what that check makes, and what has a gradient.
ONLY_FLOATS = ("it_can_be_saved_inside_a_model", "the_gradients_are_finite")
# Log-mel bands near silence: a last digit of the power is many of its logarithm.
CASES = {
    name: Raw(
        functools.partial(make, width=8),
        inputs.shape,
        given=(inputs,),
        without=() if name in FLOATS and name != "table" else ONLY_FLOATS,
    )
    for name, (make, inputs, _) in EVERY.items()
}
CASES |= {
    "logmel": Raw(functools.partial(LogMel, 4000, 16), (3, 900), given=(EVERY["audio"][1],)),
    "captions": Raw(
        functools.partial(CaptionDecoder, WORDS, 4, 1, 2, 9, dropout=0.5),
        ((3, 4), (3, 5, 8)),
        given=(TEXT, noise(3, 5, 8)),
        mask="memory_mask",
        masked=(1,),
        real=lambda y, mask: y,
        without=(*ONLY_FLOATS, "what_is_masked_changes_nothing"),  # test_text.py
    ),
    "visual prediction": Case(
        functools.partial(VisualPrediction, 6), (3, 5, 8), mask="mask", real=lambda y, mask: y, cleans=True
    ),
}


@pytest.mark.parametrize(("name", "check"), each_check(CASES))
def test_the_harness(name, check, tmp_path):
    check(CASES[name], tmp_path)


def test_no_public_layer_is_forgotten():
    public = {getattr(modalities, name) for name in modalities.__all__}
    public = {kind for kind in public if isinstance(kind, type) and issubclass(kind, keras.layers.Layer)}
    assert len(public) == 9
    assert {type(case.make()) for case in CASES.values()} == {*public, Table} - {Modality}


@every
def test_tokens_and_mask_are_what_is_announced(name):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    fresh = EVERY[name][0]()
    assert fresh.tokens == layer.tokens and not fresh.built, "known before any width"
    tokens, mask = values(layer, inputs)
    assert tokens.shape == (3, layer.tokens, 8) and tokens.dtype == "float32"
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, reals(name))
    np.testing.assert_array_equal(tokens[~mask], 0.0)
    assert (np.abs(tokens[mask]).max(-1) > 1e-3).all()
    signature = layer.signature()
    assert (*signature["shape"],) == inputs.shape[1:] and signature["dtype"] == inputs.dtype
    spec = layer(keras.Input(signature["shape"], dtype=signature["dtype"]))
    assert [(y.shape, y.dtype) for y in spec] == [
        ((None, *tokens.shape[1:]), "float32"),
        ((None, layer.tokens), "bool"),
    ]
    assert layer.compute_output_shape((None, *inputs.shape[1:])) == tuple(y.shape for y in spec)


@every
def test_what_is_absent_changes_nothing(name):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    expected, mask = (array(y) for y in layer(inputs))
    blank = layer.blank(2)
    assert blank.shape == (2, *inputs.shape[1:]) and blank.dtype == inputs.dtype
    contents = [np.nan, np.inf, 7] if name in FLOATS else [2, 1_000_000, -5]
    for present in (np.array([1, 0, 1], "float32"), np.array([[True], [False], [True]])):
        for content in contents:
            changed = inputs.copy()
            changed[1] = content
            tokens, seen = (array(y) for y in layer(changed, present=present))
            np.testing.assert_allclose(tokens[::2], expected[::2], atol=1e-6)
            np.testing.assert_array_equal(seen[::2], mask[::2])
            assert not seen[1].any()
            np.testing.assert_array_equal(tokens[1], 0.0)


@pytest.mark.needs_gradients
@every
def test_the_gradient_reaches_every_weight_and_absent_nan_reaches_none(name):
    layer, (_, inputs, _) = modality(name), EVERY[name]

    def found(given, present):
        """By the weights alone, for ids have no gradient."""
        wrapped = Wrapped(layer, given, present)
        return gradients(wrapped, np.ones((1,), "float32"))[:-1]

    everywhere = found(inputs, None)
    assert len(everywhere) == len(layer.trainable_weights) > 0
    for gradient, weight in zip(everywhere, layer.trainable_weights, strict=True):
        # A softmax does not change with what is added to all keys.
        idle = weight.path.endswith("attention/key/bias")
        assert np.isfinite(gradient).all() and (idle or np.abs(gradient).max() > 1e-5), weight.path
    present, changed = np.array([1, 0, 1], "float32"), inputs.copy()
    changed[1] = np.nan if name in FLOATS else 2
    for a, b in zip(found(changed, present), found(inputs, present), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class Wrapped(keras.layers.Layer):
    """A layer of one float, which multiplies the tokens of a modality."""

    def __init__(self, modality, given, present):
        super().__init__()
        self.modality, self.given, self.present = modality, given, present
        self.built = True

    def call(self, x):
        return self.modality(self.given, present=self.present)[0] * x


@every
def test_with_width_makes_the_model_s_own(name):
    make, inputs, _ = EVERY[name]
    plain = make()
    layer = plain.with_width(12, num_heads=3, name="tokens_of_it", dtype="mixed_bfloat16")
    assert plain.get_config()["width"] is None and layer is not plain
    assert layer.width == 12 and layer.name == "tokens_of_it" and layer.dtype_policy.name == "mixed_bfloat16"
    assert layer(inputs)[0].shape == (3, plain.tokens, 12)
    assert layer.with_width(12, num_heads=3) is layer
    assert layer.with_width(12, 3, name="tokens_of_it", dtype=layer.dtype_policy) is layer
    if "num_heads" in layer.get_config():
        assert (
            layer.get_config()["num_heads"] == make().get_config()["num_heads"]
            or layer.get_config()["num_heads"] == 3
        )
    # A built one keeps its weights.
    twin = modality(name).with_width(8, name="another")
    np.testing.assert_allclose(array(twin(inputs)[0]), array(modality(name)(inputs)[0]), atol=1e-6)
    with pytest.raises(InputError, match="makes tokens of width 8 and cannot enter a model of width 12"):
        modality(name).with_width(12)


@every
def test_a_width_is_needed_and_the_message_says_whose(name):
    make, inputs, _ = EVERY[name]
    layer = make()
    for use in (lambda: layer(inputs), lambda: layer.width, lambda: layer.build(inputs.shape)):
        with pytest.raises(InputError, match="has no width yet: hand it to a MultimodalViT"):
            use()


@every
def test_another_shape_is_refused_naming_both(name):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    shape = ", ".join(["batch", *map(str, inputs.shape[1:])])
    for wrong in (inputs[:, :-1], inputs[0], inputs[..., None]):
        with pytest.raises(InputError) as error:
            layer(wrong)
        assert f"[{shape}]" in str(error.value) and str(list(wrong.shape)) in str(error.value)
        assert layer.name in str(error.value) and "encode" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="not bool"):
        layer(np.ones(inputs.shape, bool))
    with pytest.raises(InputError, match=r"takes .* not"):
        layer(keras.Input((9, 9, 9, 9, 9)))
    if name not in FLOATS:
        with pytest.raises(InputError, match=r"takes int32 .* not float32"):
            layer(inputs.astype("float32"))


@every
def test_a_model_with_it_is_saved_and_loaded(name, tmp_path):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    signature = layer.signature()
    raw, present = keras.Input(signature["shape"], dtype=signature["dtype"]), keras.Input(())
    model = keras.Model([raw, present], layer(raw, present=present))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    given = [inputs, np.array([1, 1, 0], "float32")]
    for a, b in zip(loaded(given), model(given), strict=True):
        np.testing.assert_array_equal(array(a), array(b))
    twin = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert twin.get_config() == layer.get_config() and twin.tokens == layer.tokens


@every
def test_an_example_alone_gives_what_it_gives_in_a_batch(name):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    tokens, mask = (array(y) for y in layer(inputs))
    for i in range(3):
        alone = layer(inputs[i : i + 1])
        np.testing.assert_allclose(array(alone[0])[0], tokens[i], atol=2e-5, rtol=2e-6)
        np.testing.assert_array_equal(array(alone[1])[0], mask[i])


def test_the_example_in_the_docs_takes_under_40_lines_and_is_what_it_says():
    assert len(TABLE_TEXT.strip().splitlines()) < 40
    layer = modality("table")
    slope, start = (array(w)[0] for w in layer.weights)
    tokens, mask = (array(y) for y in layer(NUMBERS))
    for row, numbers in enumerate(NUMBERS):
        for column, number in enumerate(numbers):
            expected = 0 if np.isnan(number) else number * slope[column] + start[column]
            np.testing.assert_allclose(tokens[row, column], expected, atol=1e-6)
    assert 0 < mask.mean() < 1


# The values of those that cut a grid: of the layer that cuts, and of positions, which have their own tests.


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("image", lambda: Patches((4, 2), 8)),
        ("video", lambda: Tubelets((2, 4, 4), 8)),
        ("video of one frame", lambda: Tubelets((1, 4, 4), 8)),
        ("audio", lambda: SpectrogramPatches((4, 8), 8)),
    ],
)
def test_tokens_are_pieces_plus_positions(name, cut):
    layer, (_, inputs, _) = modality(name), EVERY[name]
    layer.fake_quantize = lambda role, x: 2 * x if role == "tokens" else 3 * x
    try:
        tokens = array(layer(inputs)[0])
    finally:
        layer.fake_quantize = identity
    seen = array(layer.spectrogram(inputs)) if name == "audio" else inputs
    pieces = cut()
    pieces.build(seen.shape)
    pieces.set_weights(layer.pieces.get_weights())
    expected = 3 * (2 * array(pieces(seen)) + array(layer.positions.encode()))
    np.testing.assert_allclose(tokens, expected, atol=2e-5)


def test_an_encoded_image_is_its_patches_through_blocks_of_its_own():
    layer, (_, inputs, _) = modality("image encoded"), EVERY["image encoded"]
    plain = Image(8, 4, width=8)
    plain.build(inputs.shape)
    plain.set_weights(layer.get_weights()[: len(plain.weights)])
    x = array(plain(inputs)[0]).astype("float64")
    block, last = layer.encoder
    y = norm(block.norm_1, x)
    x = x + attention(block.attention, y, y)[0]
    x = x + mlp(block.mlp, norm(block.norm_2, x))
    np.testing.assert_allclose(array(layer(inputs)[0]), norm(last, x), atol=1e-5)


def test_of_a_video_time_and_place_have_vectors_of_their_own():
    layer = modality("video")
    time, place = (array(w) for w in layer.positions.weights)
    assert time.shape == (2, 8) and place.shape == (2, 8)
    still = np.repeat(noise(1, 1, 8, 4, 3), 4, axis=1)
    tokens = array(layer(still)[0]).reshape(2, 2, 8)
    np.testing.assert_allclose(tokens[1] - tokens[0], np.tile(time[1] - time[0], (2, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image(30, 4), "an image of 30x30 is not a multiple of the patch 4x4.* 32x32"),
        (lambda: Image(8, 4, channels=0), "channels must be a positive integer, not 0"),
        (lambda: Image(8, 4, stem="conv2"), "unknown stem 'conv2'.*Did you mean 'conv'"),
        (lambda: Image(12, 6, stem="compact"), "power of two"),
        (lambda: Image(8, 4, depth=-1), "depth must be a non-negative integer, not -1"),
        (lambda: Image(8, 4, position="rotary2d"), "unknown position of a modality 'rotary2d'"),
        (lambda: Image(8, 4, width=0), "width must be a positive integer, not 0"),
        (lambda: Video(3, 8, 4, tubelet=2), "a video of 3x8x8 is not a multiple of the tubelet 2x4x4"),
        (lambda: Video(0, 8, 4), "frames must be a positive integer, not 0"),
        (lambda: Audio(0, 16000), "samples must be a positive integer, not 0"),
        (lambda: Audio(16000, 16000.0), "sample_rate must be a positive integer, not 16000.0"),
        (lambda: Audio(16000, 16000, patch_size=(16, 48)), "not a multiple of the patch"),
        (lambda: Audio(16000, 16000, mels=256), "cannot tell 256 bands apart"),
        (lambda: Audio(16000, 16000, hop=500), "hop 500 is longer than the window 400"),
        (lambda: Action(4), "give one of the two, not features=None and values=None"),
        (lambda: Action(4, 2, 3), "give one of the two, not features=2 and values=3"),
        (lambda: Action(4, values=3, padding=0), "padding=0 belongs to features"),
        (lambda: Action(4, 2, padding=float("nan")), "padding must be a finite number, not nan"),
        (lambda: Text(2, 4), "a number of ids from 3, not 2"),
        (lambda: Text("words.txt", 4), "must be a Vocabulary, a list of words or a number"),
        (lambda: Text(9, 0), "length must be a positive integer, not 0"),
        (lambda: Text(9, 4, sentence=0), "sentence must be a positive integer, not 0"),
        (lambda: Text(9, 4, dropout=1.0), r"dropout must be in \[0, 1\), not 1.0"),
        (lambda: CaptionDecoder(9, 4, depth=0), "depth must be a positive integer, not 0"),
        (lambda: VisualPrediction(0), "features must be a positive integer, not 0"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# What people have -> the array that the layer takes.


def test_a_clip_of_any_number_of_frames_fits():
    layer = Video(4, 2, 1, channels=1)
    clips = [np.full((n, 2, 2, 1), 1.0) * np.arange(n).reshape(n, 1, 1, 1) for n in (4, 10, 1, 2)]
    found = layer.encode(clips)
    assert found.shape == (4, 4, 2, 2, 1) and found.dtype == "float32"
    np.testing.assert_array_equal(found[:, :, 0, 0, 0], [[0, 1, 2, 3], [0, 3, 6, 9], [0] * 4, [0, 0, 1, 1]])
    with pytest.raises(InputError, match=r"a clip is \[frames, height, width, channels\], not \[2, 2, 1\]"):
        layer.encode(clips[0])
    with pytest.raises(InputError, match="takes float32"):
        layer.encode([np.zeros((4, 3, 2, 1))])


def test_images_with_nan_are_refused_outside_of_the_model():
    layer = Image(2, 1)
    np.testing.assert_array_equal(layer.encode([np.ones((2, 2, 3), "uint8")]), np.ones((1, 2, 2, 3)))
    with pytest.raises(InputError, match="NaN or infinity"):
        layer.encode(np.full((1, 2, 2, 3), np.nan))
    with pytest.raises(InputError, match=r"not int64 \[1, 3, 2, 3\]"):
        layer.encode(np.ones((1, 3, 2, 3), int))


def test_tracks_are_padded_and_cut_with_one_warning():
    layer = Action(3, values=4)
    with pytest.warns(UserWarning, match="2 tracks cut to 3 steps.*longest has 5") as record:
        found = layer.encode([[1, 2], [0, 1, 2, 3], [], [3, 3, 3, 3, 3], [-1, 2, 1]])
    assert len(record) == 1 and found.dtype == "int32"
    np.testing.assert_array_equal(found, [[1, 2, -1], [0, 1, 2], [-1] * 3, [3] * 3, [-1, 2, 1]])
    np.testing.assert_array_equal(
        Action(3, 2, padding=-9).encode([np.ones((2, 2)), []]), [[[1, 1], [1, 1], [-9, -9]], [[-9, -9]] * 3]
    )
    for tracks, message in (
        ([[4]], "integers from 0 to 3, or -1 for no step, not int64 up to 4"),
        ([[0.5]], "takes integers"),
        ([[[1]]], r"takes tracks \[steps\], not \[1, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            layer.encode(tracks)
    with pytest.raises(InputError, match="NaN or infinity"):
        Action(1, 2).encode([[[np.nan, 1]]])
    with pytest.raises(InputError, match="nothing says what stands for none"):
        Action(3, 2).encode([np.ones((2, 2))])


def test_action_tokens_are_rows_or_products():
    layer, (_, inputs, _) = modality("action ids"), EVERY["action ids"]
    table, positions = array(layer.table), array(layer.positions.table)[0]
    tokens, mask = (array(y) for y in layer(inputs))
    for row, step in np.argwhere(mask):
        np.testing.assert_allclose(tokens[row, step], table[inputs[row, step]] + positions[step], atol=1e-6)
    layer, (_, inputs, _) = modality("action"), EVERY["action"]
    kernel, bias = (array(w) for w in layer.projection.weights)
    expected = inputs @ kernel + bias + array(layer.positions.table)
    np.testing.assert_allclose(array(layer(inputs)[0]), expected, atol=1e-5)


def test_every_argument_is_documented():
    for name in modalities.__all__:
        kind = getattr(modalities, name)
        if isinstance(kind, type):
            for argument in list(inspect.signature(kind.__init__).parameters)[1:]:
                assert argument in kind.__doc__ or argument == "kwargs", f"{name}: {argument}"


def test_tokens_of_different_modalities_are_of_one_size_at_first():
    """So that none drowns the others in the trunk before it has learned anything."""
    for name, (make, inputs, _) in EVERY.items():
        if name in ("table", "image compact"):
            continue
        keras.utils.set_random_seed(1)
        layer = make(width=64)
        tokens, mask = layer(np.sign(inputs) if name in FLOATS else inputs)
        deviation = array(tokens)[array(mask)].std()
        assert 0.3 < deviation < 1.5, (name, deviation)


def test_ops_of_a_modality_run_in_a_functional_model_without_warnings(recwarn):
    raw = keras.Input((4,), dtype="int32")
    tokens, mask = Text(9, 4, 2, width=8)(raw)
    y = ops.sum(ops.where(ops.expand_dims(mask, 2), tokens, 0), axis=1)
    model = keras.Model(raw, y)
    np.testing.assert_array_equal(array(model(np.zeros((1, 4), "int32"))), np.zeros((1, 8)))
    assert not [w for w in recwarn if "mask" in str(w.message).lower()]
