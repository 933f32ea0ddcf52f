"""`MultimodalViT`: one trunk, missing inputs that change nothing, and the two stages."""

import keras
import numpy as np
import pytest

from keras_vit import MultimodalViT
from keras_vit.errors import InputError
from keras_vit.modalities import Action, Image, Text, Vocabulary, visual_prediction_loss

array = keras.ops.convert_to_numpy
VOCABULARY = Vocabulary.from_texts(["red circle left of blue square"])
NAMES = ["image", "text", "move"]
B = 4


def modalities(names=NAMES):
    kinds = {
        "image": Image(16, 4),
        "text": Text(VOCABULARY, length=6, sentence=3),
        "move": Action(5, features=2),
    }
    return {name: kinds[name] for name in names}


def model(names=NAMES, **options):
    """With random weights, also where they start as zeros."""
    keras.utils.set_random_seed(0)
    built = MultimodalViT(
        modalities(names), **{"width": 16, "depth": 2, "num_heads": 2, "num_classes": 3, **options}
    )
    random = np.random.default_rng(0)
    for weight in built.trainable_variables:
        weight.assign(array(weight) + random.normal(0, 0.2, weight.shape))
    return built


def inputs():
    random = np.random.default_rng(1)
    texts = ["red circle", "blue", "square left of red", "circle"]
    return {
        "image": random.normal(size=(B, 16, 16, 3)).astype("float32"),
        "text": VOCABULARY.encode(texts, 6),
        "move": random.normal(size=(B, 5, 2)).astype("float32"),
    }


FUSIONS = ["single_stream", "bottleneck"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_modality_adds_its_tokenizer_and_one_vector(fusion):
    """The trunk gains nothing: it is the same for all of them."""
    sizes = {}
    for names in (["image"], ["image", "text"], NAMES):
        built = model(names, fusion=fusion)
        sizes[len(names)] = built.count_params() - sum(m.count_params() for m in built.modalities.values())
        assert sum(block.count_params() for block in built.blocks) == 2 * 3280
    assert sizes[2] - sizes[1] == sizes[3] - sizes[2] == 16


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_absent_changes_nothing(fusion):
    """NaN in it or nothing at all: the same answer, and another than with it."""
    built, given = model(fusion=fusion), inputs()
    full = array(built(given))
    for column, name in enumerate(NAMES):
        present = np.ones((B, 3), "float32")
        present[1, column] = 0
        other = {**given, name: given[name].copy()}
        other[name][1] = 1 if name == "text" else np.nan
        one, two = (array(built({**x, "present": present})) for x in (given, other))
        np.testing.assert_allclose(one, two, atol=1e-6)
        rest = {key: value for key, value in given.items() if key != name}
        np.testing.assert_allclose(array(built(rest))[1], one[1], atol=1e-6)
        np.testing.assert_allclose(one[[0, 2, 3]], full[[0, 2, 3]], atol=1e-6)
        assert np.abs(one[1] - full[1]).max() > 1e-2, f"{name} matters where it is present"


def test_an_empty_text_counts_as_absent():
    built, given = model(), inputs()
    given["text"][2] = 0
    present = np.ones((B, 3), "float32")
    present[2, 1] = 0
    np.testing.assert_allclose(array(built(given)), array(built({**given, "present": present})), atol=1e-6)


def test_single_stream_is_one_sequence_through_the_blocks():
    built, given = model(), inputs()
    parts, masks = [np.tile(array(built.cls), (B, 1, 1))], [np.ones((B, 1), bool)]
    for i, name in enumerate(NAMES):
        tokens, mask = (array(x) for x in built.modalities[name](given[name]))
        parts.append((tokens + array(built.embedding)[i]) * mask[..., None])
        masks.append(mask.astype(bool))
    x, mask = np.concatenate(parts, 1), np.concatenate(masks, 1)
    assert x.shape[1] == 1 + 16 + 3 + 5
    for block in built.blocks:
        x = block(x, mask=mask)
    expected = array(built.head(built.norm(x)[:, 0]))
    np.testing.assert_allclose(array(built(given)), expected, atol=1e-5)


def test_the_bottleneck_is_the_only_way_between_streams():
    """The table of who sees whom, by hand: [CLS], 2 tokens of the bottleneck, 16 + 3 + 5 of the streams."""
    built, given = model(fusion="bottleneck", bottleneck=2), inputs()
    tokens, masks = {}, {}
    for name in NAMES:
        tokens[name], masks[name] = built.modalities[name](given[name])
    x, mask = (array(value) for value in built._joined(tokens, masks))
    assert x.shape == (B, 27, 16) and mask.shape == (B, 27, 27)
    group = np.array([0] + [1] * 2 + [2] * 16 + [3] * 3 + [4] * 5)
    for query in range(27):
        for key in range(27):
            one, two = group[query], group[key]
            sees = one == 0 or one == two or two == 1 or (one == 1 and two > 1)
            assert mask[0, query, key] == sees, (query, key)
    np.testing.assert_allclose(x[:, 1:3], np.tile(array(built.passage), (B, 1, 1)), atol=1e-6)


def test_both_stages_are_callable():
    built, given = model(visual_weight=1.0), inputs()
    stage_one = array(built({"text": given["text"]}))
    stage_two = array(built({name: given[name] for name in ("image", "text")}))
    assert stage_one.shape == stage_two.shape == (B, 3)
    assert np.abs(stage_one - stage_two).max() > 1e-2


def test_modality_dropout_leaves_something_and_only_in_training():
    built, given = model(modality_dropout=0.5), inputs()
    names, many = NAMES, {key: np.repeat(value, 100, axis=0) for key, value in given.items()}
    present = np.ones((400, 3), "float32")
    present[::4, 0] = 0
    stays = array(built._present({**many, "present": present}, names, True)).astype(bool)
    assert stays.any(axis=1).all(), "one always stays"
    assert not stays[::4, 0].any(), "what is absent does not come back"
    # Three fair coins, and all three lost is mended: 1/2 + 1/8 / 3.
    assert stays[np.arange(400) % 4 > 0].mean() == pytest.approx(0.5 + 1 / 24, abs=0.04)
    assert built._present(given, names, False) is None
    one, two = (array(built(given, training=True)) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3, "drawn anew"
    np.testing.assert_array_equal(array(built(given)), array(built(given)))


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_the_sentence_learns_to_predict_the_picture(kind):
    """The loss is there in training only, where both are present, and by hand the same."""
    built, given = model(visual_weight=0.7, visual_loss=kind), inputs()
    present = np.ones((B, 3), "float32")
    present[0, 0] = present[3, 1] = 0
    built({**given, "present": present}, training=True)
    predicted = built.predicted_features(given["text"])[1:3]
    expected = 0.7 * float(
        visual_prediction_loss(predicted, built.visual_features(given["image"])[1:3], kind)
    )
    assert float(built.prediction_loss()) == pytest.approx(expected, rel=1e-5)
    assert built.prediction_loss() == 0, "once"
    built(given)
    assert built.prediction_loss() == 0
    built({"text": given["text"]}, training=True)
    assert built.prediction_loss() == 0


def test_parts_of_a_batch_that_are_filled_up_have_its_loss():
    """As two replicas see it: five examples as three, and two with a copy that weighs nothing."""
    built, given = model(visual_weight=0.7), inputs()
    whole = {
        name: np.concatenate([x, x[:1] * 0.5 if x.dtype == "float32" else x[1:2]])
        for name, x in given.items()
    }
    labels = np.eye(3)[[0, 1, 2, 0, 1]]
    built.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))

    def loss(rows, weights=None):
        x = {name: value[rows] for name, value in whole.items()}
        weights = None if weights is None else np.array(weights, "float32")
        logits = built(x, training=True)
        return float(built.compute_loss(x, labels[rows], logits, weights, training=True))

    expected = loss([0, 1, 2, 3, 4])
    parts = loss([0, 1, 2], [6 / 5] * 3), loss([3, 4, 4], [6 / 5, 6 / 5, 0])
    assert np.mean(parts) == pytest.approx(expected, rel=1e-5)
    without = model()
    without.compile(loss=built.loss)
    assert expected - without.compute_loss(whole, labels, without(whole)) > 0.1, (
        "the sentence's part is in it"
    )


def test_a_saved_model_answers_the_same(tmp_path):
    built = model(fusion="bottleneck", visual_weight=0.5, modality_dropout=0.2)
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(inputs())), array(built(inputs())))
    one, two = ({**m.get_config(), "modalities": None} for m in (loaded, built))
    assert one == two
    text = loaded.modalities["text"]
    np.testing.assert_array_equal(text.encode(["red circle"]), VOCABULARY.encode(["red circle"], 6))


def test_modality_dropout_follows_the_seed():
    """Keras' seed for the whole program where the model has none of its own."""

    def draws(program, **options):
        built = model(modality_dropout=0.5)
        keras.utils.set_random_seed(program)
        built = MultimodalViT.from_config({**built.get_config(), **options})
        return [array(built._present(inputs(), NAMES, True)).tolist() for _ in range(8)]

    assert draws(1) == draws(1) != draws(2)
    assert draws(1, seed=5) == draws(2, seed=5) != draws(1, seed=6)


def test_the_feature_without_a_head():
    assert array(model(num_classes=None)(inputs())).shape == (B, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: {**x, "txt": x["text"]},
            r"unknown input 'txt': the known ones are image, text, move, pres",
        ),
        (lambda x: {"present": np.ones((B, 3))}, r"nothing is given: at least one of image, text, move"),
        (lambda x: x["image"], r"takes a dictionary of image, text, move, present"),
        (
            lambda x: {**x, "present": np.ones((B, 2))},
            r"present has the shape \[4, 2\]; expected \[batch, 3\]",
        ),
        (lambda x: {**x, "present": np.eye(4, 3)}, r"nothing is present in example 3"),
        (lambda x: {**x, "present": [[1, 1, 1]] * 4}, r"present must be an array .*, not a list"),
        (lambda x: {**x, "present": np.full((4, 3), None)}, r"present must be numbers.* not object"),
        (lambda x: {**x, "present": np.full((4, 3), "yes")}, r"present must be numbers.* not <U3"),
        (
            lambda x: {**x, "image": x["image"][:, :8]},
            r"takes float32 \[batch, 16, 16, 3\], not float32 \[4, 8",
        ),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        model()(change(inputs()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultimodalViT({}), r"with at least one, not \{\}"),
        (lambda: MultimodalViT({"present": Image(8, 4)}), r'cannot be named "present"'),
        (lambda: MultimodalViT({"image": 3}), r"'image' is a int, not a modality"),
        (
            lambda: model(fusion="late"),
            r"unknown fusion 'late': the known ones are single_stream, bottleneck",
        ),
        (lambda: model(["image"], visual_weight=1.0), r"visual_weight needs a visual sentence and an image"),
        (lambda: model(modality_dropout=1.0), r"modality_dropout must be in \[0, 1\)"),
        (lambda: model().predicted_features(inputs()["text"]), r"this model learned no prediction"),
        (lambda: model(["text"]).visual_features(inputs()["image"]), r"this model has no Image: it has text"),
    ],
)
def test_models_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
