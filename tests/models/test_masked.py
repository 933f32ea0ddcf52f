"""Masked modelling: what is hidden is not seen, what is predicted is what NumPy predicts, and it learns."""

import keras
import numpy as np
import pytest
from random_weights import randomize
from scipy.special import erf, softmax

import keras_vit
from keras_vit import MaskedViT, ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.layers import Linear
from keras_vit.losses import MaskedReconstruction
from keras_vit.models.transfer import variables_by_name

trains = pytest.mark.skipif(keras.backend.backend() == "numpy", reason="NumPy has no gradients")
SMALL = ViTConfig(patch_size=4, width=12, depth=2, num_heads=3, mlp_width=20)
MODES = ("simmim", "mae")
MANY = [  # every option that the way of the tokens depends on
    {},
    {"registers": 2, "pooling": "mean"},
    {"distilled": True, "position": "sinusoidal"},
    {"position": "rotary2d", "num_heads": 1},
    {"position": "relative", "pooling": "attention"},
    {"position": "relative", "attention": "hard", "top_k": 2, "registers": 1},
    {"attention": "relu", "qk_norm": True, "mlp": "swiglu", "position": "factorised"},
    {"stem": "overlapping"},
    {"stem": "compact", "position": "coordinates"},
]


def array(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def encoder(**changes):
    return ViT(SMALL, image_size=(8, 12), **{"num_classes": 5, **changes})


def masked(mode="simmim", ratio=0.5, encoder_changes=None, **options):
    return randomize(MaskedViT(encoder(**(encoder_changes or {})), ratio, mode, **options))


def images(count=4, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 8, 12, 3)).astype("float32")


def answer(model, inputs, **options):
    given = model(inputs, **options)
    return array(given["patches"]), keras.ops.convert_to_numpy(given["mask"])


def cut(pictures, h=4, w=4):
    """[B, N, h * w * 3], by two loops."""
    return np.stack(
        [
            pictures[:, y : y + h, x : x + w].reshape(len(pictures), -1)
            for y in range(0, pictures.shape[1], h)
            for x in range(0, pictures.shape[2], w)
        ],
        axis=1,
    )


def filled(pictures, mask, content):
    """`pictures` with `content` in the patches where mask [B, N] is True."""
    pixels = mask.reshape(-1, 2, 3).repeat(4, 1).repeat(4, 2)[..., None]
    return np.where(pixels, np.float32(content), pictures)


# What is computed, in NumPy.


def norm(w, x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}/scale"] + w[f"{name}/shift"]


def linear(w, x, name):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def block(w, x, name, num_heads):
    y, size = norm(w, x, f"{name}/norm_1"), x.shape[-1] // num_heads
    q, k, v = (linear(w, y, f"{name}/attention/{part}") for part in ("query", "key", "value"))
    seen = []
    for head in range(num_heads):
        s = slice(head * size, (head + 1) * size)
        seen.append(softmax(q[..., s] @ k[..., s].T / np.sqrt(size), -1) @ v[..., s])
    x = x + linear(w, np.concatenate(seen, -1), f"{name}/attention/output")
    y = linear(w, norm(w, x, f"{name}/norm_2"), f"{name}/mlp/expand")
    return x + linear(w, 0.5 * y * (1 + erf(y / np.sqrt(2))), f"{name}/mlp/contract")


def numpy_answer(model, pictures, mask, real=None):
    """Example by example, with lists: SimMIM, figure 2, or MAE, section 3. NaN for what is no patch."""
    w = {v.path.split("/", 1)[1]: array(v).astype(np.float64) for v in model.encoder.weights}
    own = {
        v.path.removeprefix(f"{model.name}/"): array(v).astype(np.float64)
        for v in model.weights
        if not v.path.startswith(f"{model.encoder.name}/")
    }
    result = []
    for b, (patches, hidden) in enumerate(zip(cut(pictures), mask, strict=True)):
        here = np.arange(6) if real is None else np.flatnonzero(real[b])
        tokens, hidden = linear(w, patches, "patches/projection")[here], hidden[here]
        if model.mode == "simmim":
            tokens[hidden] = own["mask_token"][0, 0]
        x = np.concatenate([w["cls"][0], tokens])
        if "positions/table" in w:
            x = x + w["positions/table"][0]
        if model.mode == "mae":
            x = x[np.concatenate([[True], ~hidden])]
        for i in range(model.encoder.config.depth):
            x = block(w, x, f"block_{i}", 3)
        x = norm(w, x, "norm")
        if model.mode == "mae":
            x, visible = linear(own, x, "embed"), iter(range(1, 1 + (~hidden).sum()))
            rows = [x[0], *(own["mask_token"][0, 0] if h else x[next(visible)] for h in hidden)]
            x = np.stack(rows)
            x[1:] += sincos(x.shape[-1])[here]
            for i in range(model.decoder_depth):
                x = block(own, x, f"block_{i}", 1)
            x = norm(own, x, "norm")
        result.append(np.full((6, 48), np.nan))
        result[-1][here] = linear(own, x[1:], "prediction")
    return np.stack(result)


def sincos(width):
    """MAE's util/pos_embed.py: sin x, cos x, sin y, cos y, with angles p / 10000^(i / n)."""
    n = width // 4
    table = []
    for y in range(2):
        for x in range(3):
            angles = [[p / 10000 ** (i / n) for i in range(n)] for p in (x, y)]
            table.append([f(a) for half in angles for f in (np.sin, np.cos) for a in half])
    return np.array(table)


@pytest.mark.parametrize("mode", MODES)
def test_the_prediction_equals_a_numpy_forward_pass(mode):
    model = masked(mode, decoder_width=8, decoder_depth=2)
    for training in (False, True):
        predicted, mask = answer(model, images(), training=training)
        assert predicted.shape == (4, 6, 48)
        np.testing.assert_allclose(predicted, numpy_answer(model, images(), mask), atol=3e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", MANY, ids=lambda changes: "-".join(map(str, changes.values())))
def test_what_is_hidden_is_not_seen_and_what_is_visible_is(mode, changes):
    model = masked(mode, encoder_changes=changes)
    predicted, mask = answer(model, images())
    assert np.abs(predicted).max() > 0.1
    for content in (9.0, np.nan):
        given, again = answer(model, filled(images(), mask, content))
        np.testing.assert_array_equal(again, mask)
        np.testing.assert_allclose(given, predicted, atol=1e-5)
    other, _ = answer(model, filled(images(), ~mask, 0.5))
    assert (np.abs(other - predicted).max((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("changes", MANY[:7], ids=lambda changes: "-".join(map(str, changes.values())))
def test_tokens_that_are_left_out_may_as_well_be_there_and_not_be_seen(changes):
    model = masked("mae", encoder_changes=changes)
    prefix, mask = model.encoder.prefix, model.hidden(4, 6)
    visible = keras.ops.logical_not(mask)
    tokens = model.tokens(images(), visible)
    keep = np.argsort(keras.ops.convert_to_numpy(mask), axis=1, kind="stable")[:, :3].astype("int32")
    few = array(model._encoded(tokens, (2, 3), None, None, keep, False))
    whole = array(model._encoded(tokens, (2, 3), None, visible, None, False))
    places = np.concatenate([np.tile(np.arange(prefix), (4, 1)), keep + prefix], 1)
    assert few.shape == (4, prefix + 3, 12)
    np.testing.assert_allclose(few, np.take_along_axis(whole, places[..., None], 1), atol=2e-5)


def test_the_encoder_is_the_vit_itself():
    """With nothing hidden but one patch of which it sees nothing anyway, the tokens are those of the ViT."""
    features = randomize(encoder(num_classes=None, pooling=None, registers=2))
    model = MaskedViT(features, 0.5)
    tokens = model.tokens(images(), np.ones((4, 6), bool))
    given = array(model._encoded(tokens, (2, 3), None, None, None, False))[:, model.encoder.prefix :]
    np.testing.assert_allclose(given, array(features(images())), atol=1e-5)


# What is hidden.


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.6, 0.75, 0.9])
def test_a_share_of_the_patches_is_hidden_each_equally_often(ratio):
    model = MaskedViT(encoder(), ratio, seed=3)
    for training in (False, True):
        mask = keras.ops.convert_to_numpy(model.hidden(2000, 6, training=training))
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask.sum(1), round(6 * ratio))
        np.testing.assert_allclose(mask.mean(0), round(6 * ratio) / 6, atol=5 * 0.5 / np.sqrt(2000))
        assert len({tuple(row) for row in mask}) > 5


def test_training_draws_anew_by_the_seed_and_inference_always_the_same():
    def draws(seed, training):
        model = MaskedViT(encoder(), 0.5, seed=seed)
        return [answer(model, images(20), training=training)[1] for _ in range(2)]

    one, two = draws(1, True)
    assert (one != two).any()
    np.testing.assert_array_equal(draws(1, True), [one, two])
    assert (draws(2, True)[0] != one).any()
    one, two = draws(None, False)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(draws(None, None), [one, two])
    assert len({tuple(row) for row in one}) > 5, "examples differ"


REAL = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]], "float32")


@pytest.mark.parametrize("mode", MODES)
def test_a_padded_picture_is_computed_as_if_there_were_no_padding(mode):
    model = masked(mode, 0.4, {"patch_mask": True, "position": "none"}, decoder_width=8)
    predicted, mask = answer(model, {"image": images(), "patch_mask": REAL})
    np.testing.assert_array_equal(mask.sum(1), [2, 2, 1, 0])
    expected = numpy_answer(model, images(), mask, REAL > 0)
    np.testing.assert_allclose(predicted[REAL > 0], expected[REAL > 0], atol=3e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", [{}, {"pooling": "mean", "registers": 1, "position": "relative"}])
def test_padding_is_neither_hidden_nor_seen(mode, changes):
    model = masked(mode, encoder_changes={"patch_mask": True, **changes})
    inputs = {"image": filled(images(), REAL == 0, 0), "patch_mask": REAL}
    predicted, mask = answer(model, inputs)
    np.testing.assert_array_equal(mask.sum(1), [3, 2, 1, 0])  # round(n / 2), halves to the even number
    assert not (mask & (REAL == 0)).any()
    model.compile("sgd", run_eagerly=True)
    expected = model.evaluate(inputs, batch_size=4, verbose=0)
    target = cut(inputs["image"])
    by_hand = [error(target[b, n], predicted[b, n], model) for b, n in np.argwhere(mask)]
    assert expected == pytest.approx(np.mean(by_hand), rel=1e-4)
    for content in (5.0, np.nan):
        changed = {**inputs, "image": filled(images(), REAL == 0, content)}
        again, _ = answer(model, changed)
        np.testing.assert_allclose(again[REAL > 0], predicted[REAL > 0], atol=1e-5)
        assert model.evaluate(changed, batch_size=4, verbose=0) == pytest.approx(expected, rel=1e-5)
    whole = answer(model, {"image": images(), "patch_mask": np.ones_like(REAL)})
    plain = masked(mode, encoder_changes=changes)
    for given, same in zip(answer(plain, images()), whole, strict=True):
        np.testing.assert_allclose(given, same, atol=1e-5)


def error(target, predicted, model):
    target = target.astype(np.float64)
    if model.reconstruction.normalise:
        target = (target - target.mean()) / np.sqrt(target.var() + 1e-6)
    difference = predicted - target
    return np.abs(difference).mean() if model.reconstruction.distance == "l1" else (difference**2).mean()


# Training.


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_is_the_error_on_hidden_patches(mode):
    for reconstruction in (None, MaskedReconstruction(False, "l2")):
        model = masked(mode, reconstruction=reconstruction)
        model.compile("sgd", run_eagerly=True)
        predicted, mask = answer(model, images())
        target = cut(images())
        by_hand = [error(target[b, n], predicted[b, n], model) for b, n in np.argwhere(mask)]
        assert model.evaluate(images(), verbose=0) == pytest.approx(np.mean(by_hand), rel=1e-5)
        assert model.evaluate(images(), np.zeros(4), verbose=0) == pytest.approx(np.mean(by_hand), rel=1e-5)
        weights = np.array([1, 0, 2, 1], "float32")
        each = np.reshape(by_hand, (4, 3)) * weights[:, None]
        given = model.evaluate(images(), np.zeros(4), sample_weight=weights, verbose=0)
        assert given == pytest.approx(each.sum() / (3 * 4), rel=1e-5)  # by their number, as Keras' losses
    assert (model.reconstruction.distance, MaskedViT(encoder(), mode="simmim").reconstruction.distance) == (
        "l2",
        "l1",
    )


def test_parts_of_a_batch_that_are_filled_up_have_the_loss_of_the_batch():
    """Six examples on two replicas of four: two and two are filled up, with weight 0."""
    model, pictures = masked(), images(6)
    model.compile("sgd")
    patches, mask = answer(model, pictures)
    whole = float(model.compute_loss(pictures, y_pred={"patches": patches, "mask": mask}))

    def part(rows, weights):
        y_pred = {"patches": patches[rows], "mask": mask[rows]}
        return float(model.compute_loss(pictures[rows], y_pred=y_pred, sample_weight=np.float32(weights)))

    parts = part([0, 1, 2, 3], [8 / 6] * 4), part([4, 5, 5, 5], [8 / 6, 8 / 6, 0, 0])
    assert np.mean(parts) == pytest.approx(whole, rel=1e-5)
    assert part([0, 1], [0, 0]) == 0


@trains
@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("mae", {"pooling": "attention", "position": "relative", "registers": 1}),
        ("simmim", {"distilled": True}),
    ],
)
def test_fit_on_images_alone_trains_all_but_pooling_and_head(mode, changes, recwarn):
    keras.utils.set_random_seed(0)
    model = MaskedViT(encoder(**changes, dropout=0.1, patch_dropout=0.3), 0.5, mode, seed=0)
    randomize(model.encoder)
    flat = np.repeat(np.repeat(np.random.default_rng(0).normal(size=(8, 1, 3, 3)), 8, 1), 4, 2)
    flat = (flat + 0.3 * images(1)).astype("float32")  # the same pattern on columns of different colours
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1))
    before = {v.path: array(v) for v in model.weights}
    first = model.evaluate(flat, verbose=0)
    history = model.fit(flat, epochs=60, verbose=0).history["loss"]
    assert np.mean(history[-5:]) < 0.75 * history[0]
    assert model.evaluate(flat, verbose=0) < 0.75 * first
    still = {path for path, value in before.items() if (array(by_path(model, path)) == value).all()}
    idle = {v.path for v in model.weights if v.path.split("/")[1] in ("pool", "head", "head_distillation")}
    assert still == idle and idle
    assert {v.path for v in model.trainable_variables} == {v.path for v in model.weights} - idle
    assert len(model.trainable_variables) + len(model.non_trainable_variables) == len(model.variables)
    assert not [w for w in recwarn if "radient" in str(w.message)]


def by_path(model, path):
    return next(v for v in model.weights if v.path == path)


@trains
@pytest.mark.slow
def test_it_learns_in_bfloat16_and_predicts_close_to_float32():
    for mode in MODES:
        model = masked(mode)
        half = MaskedViT(encoder(dtype="mixed_bfloat16"), 0.5, mode)
        half.set_weights(model.get_weights())
        given, expected = answer(half, images())[0], answer(model, images())[0]
        assert np.abs(given - expected).max() < 0.06 * np.abs(expected).max()
    half.compile(keras.optimizers.AdamW(1e-2))
    history = half.fit(images(), epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


# Afterwards.


@pytest.mark.parametrize("mode", MODES)
def test_the_pretrained_encoder_becomes_a_classifier_in_one_line(mode):
    model = masked(mode, encoder_changes={"registers": 1})
    assert isinstance(model.classifier(7), ViT)
    for new in (model.classifier(num_classes=7), model.encoder.rebuilt(num_classes=7)):
        assert array(new(images())).shape == (4, 7)
        old = variables_by_name(model.encoder)
        for name, variable in variables_by_name(new).items():
            if not name.startswith("head"):
                np.testing.assert_array_equal(array(variable), array(old[name]))
    fresh = model.classifier(5)  # as many as the encoder's own head has
    assert (array(fresh.head.kernel) == 0).all() and (array(model.encoder.head.kernel) != 0).any()
    wider = model.classifier(3, merge=(1, 4), dropout=0.1)
    assert wider.merger is not None and wider.config.dropout == 0.1
    tokens = masked(encoder_changes={"num_classes": None, "pooling": None}).classifier(3, pooling="mean")
    assert array(tokens(images())).shape == (4, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_answers_the_same(mode, tmp_path):
    options = {"decoder_width": 8, "decoder_depth": 1} if mode == "mae" else {}
    reconstruction = MaskedReconstruction(False, "l1")
    model = masked(mode, 0.4, {"registers": 2}, reconstruction=reconstruction, seed=4, **options)
    model.compile("sgd", run_eagerly=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for given, expected in zip(answer(loaded, images()), answer(model, images()), strict=True):
        np.testing.assert_array_equal(given, expected)
    assert loaded.evaluate(images(), verbose=0) == model.evaluate(images(), verbose=0)
    np.testing.assert_array_equal(
        array(loaded.encoder.rebuilt()(images())), array(model.encoder.rebuilt()(images()))
    )


@pytest.mark.parametrize("normalise", [False, True])
def test_reconstruct_keeps_what_is_visible_and_predicts_the_rest(normalise):
    model = masked("mae", reconstruction=MaskedReconstruction(normalise))
    predicted, mask = answer(model, images())
    shown, whole, given = model.reconstruct(images())
    np.testing.assert_array_equal(given, mask)
    np.testing.assert_array_equal(shown, filled(images(), mask, 0))
    np.testing.assert_array_equal(filled(whole, mask, 0), shown)
    true = cut(images())
    if normalise:
        predicted = predicted * true.std(-1, keepdims=True) + true.mean(-1, keepdims=True)
    np.testing.assert_allclose(cut(whole)[mask], predicted[mask], atol=1e-5)


# Other tokens than patches of images.


class MaskedSteps(MaskedViT):
    """A sequence of vectors [B, 7, F]: each step is a token."""

    def __init__(self, features, **options):
        self.features = features
        trunk = ViT(SMALL, image_size=(4, 28), num_classes=None, pooling="mean", position="sinusoidal")
        super().__init__(trunk, **options)
        self.embed = Linear(12, name="embed")
        self.embed.build((None, 7, features))

    def grid(self, steps):
        return 1, steps.shape[1]

    def real(self, steps):
        return None

    def tokens(self, steps, visible):
        return self.embed(steps)

    def targets(self, steps):
        return steps

    def target_width(self):
        return self.features

    def idle(self):
        return [*super().idle(), self.encoder.patches]


@trains
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_sequence_of_vectors_is_modelled_alike(mode):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    steps = random.normal(size=(32, 1, 5)) * np.linspace(-1, 1, 7)[:, None]  # each a line
    steps = steps.astype("float32")
    model = MaskedSteps(5, ratio=0.4, mode=mode, reconstruction=MaskedReconstruction(False), seed=0)
    predicted, mask = answer(model, steps)
    assert predicted.shape == (32, 7, 5) and (mask.sum(1) == 3).all()
    changed, _ = answer(model, np.where(mask[..., None], np.float32(9), steps))
    np.testing.assert_allclose(changed, predicted, atol=1e-5)
    if mode == "mae":
        model.compile(keras.optimizers.Adam(1e-2))
        history = model.fit(steps, epochs=60, verbose=0).history["loss"]
        assert history[-1] < 0.4 * history[0]


# Mistakes.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedViT("Ti/16"), "encoder must be a ViT, not str"),
        (
            lambda: MaskedViT(encoder(merge=(1, 4))),
            r"rebuilt\(merge=None\).*classifier\(classes, merge=\(1, 4",
        ),
        (lambda: MaskedViT(encoder(), 1.0), r"ratio must be between 0 and 1, e.g. 0.6, not 1.0"),
        (lambda: MaskedViT(encoder(), 0), "ratio must be between 0 and 1"),
        (lambda: MaskedViT(encoder(), "half"), "ratio must be between 0 and 1.*'half'"),
        (lambda: MaskedViT(encoder(), 0.05), "ratio 0.05 of 6 patches hides 0 of them"),
        (lambda: MaskedViT(encoder(), 0.95), "ratio 0.95 of 6 patches hides 6 of them"),
        (lambda: MaskedViT(encoder(), mode="bert"), "unknown mode 'bert': the known ones are simmim, mae"),
        (lambda: MaskedViT(encoder(), mode="mae", decoder_width=10), "multiple of 4, not 10"),
        (
            lambda: MaskedViT(encoder(), mode="mae", decoder_depth=0),
            "decoder_depth must be a positive integer",
        ),
        (
            lambda: MaskedViT(encoder(), reconstruction="l1"),
            "must be a keras_vit.losses.MaskedReconstruction",
        ),
        (lambda: MaskedViT(encoder())(images()[:, :, :8]), r"\[batch, 8, 12, 3\], not \[4, 8, 8, 3\]"),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_another_loss_is_refused():
    model = masked()
    model.compile("sgd", loss="mse")
    with pytest.raises(InputError, match="MaskedViT has its own loss"):
        model.compute_loss(images(), y_pred=model(images()))


def test_it_is_public():
    assert keras_vit.MaskedViT is MaskedViT and keras_vit.models.MaskedViT is MaskedViT
    assert keras_vit.losses.MaskedReconstruction is MaskedReconstruction
