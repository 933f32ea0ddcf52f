"""Words as tokens, the visual sentence, predicted visual features and captions: values and promises."""

import keras
import numpy as np
import pytest
from harness import array, built, gradients, noise, stateless, values
from keras import ops
from references import attention, mlp, norm, weights_of

from keras_vit.errors import InputError
from keras_vit.modalities import (
    CaptionDecoder,
    Text,
    VisualPrediction,
    Vocabulary,
    caption_targets,
    visual_prediction_loss,
)

WORDS = Vocabulary(["red", "ball", "blue", "cube", "球"])
IDS = np.array([[2, 3, 4, 1], [5, 6, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]], "int32")


def decoder_block(block, x, memory, mask=None, memory_mask=None):
    y = norm(block.norm_1, x)
    x = x + attention(block.attention, y, y, mask)[0]
    x = x + attention(block.cross_attention, norm(block.norm_2, x), memory, memory_mask)[0]
    return x + mlp(block.mlp, norm(block.norm_3, x))


def encoder_block(block, x, mask):
    y = norm(block.norm_1, x)
    x = x + attention(block.attention, y, y, mask)[0]
    return x + mlp(block.mlp, norm(block.norm_2, x))


def embedded(layer, ids):
    w = weights_of(layer)
    return w["table"][ids] + w["positions/table"]


def test_words_are_rows_of_the_table_plus_positions():
    layer = built(Text(WORDS, 4, width=8), IDS)
    assert [w.name for w in layer.weights] == ["table", "table"] and layer.weights[0].shape == (7, 8)
    tokens, mask = values(layer, IDS)
    np.testing.assert_array_equal(mask, IDS != 0)
    np.testing.assert_allclose(tokens, np.where(mask[..., None], embedded(layer, IDS), 0), atol=1e-6)


def test_ids_that_the_vocabulary_does_not_have_are_unknown_words():
    layer = built(Text(WORDS, 4, width=8), IDS)
    strange = np.array([[7, -1, 2**31 - 1, 2]], "int32")
    np.testing.assert_array_equal(
        values(layer, strange)[0], values(layer, np.array([[1, 1, 1, 2]], "int32"))[0]
    )


def test_the_sentence_is_the_formula():
    layer = built(
        Text(WORDS, 4, sentence=3, depth=2, decoder_depth=2, num_heads=2, mlp_width=9, width=8), IDS
    )
    tokens, mask = values(layer, IDS)
    assert tokens.shape == (4, 3, 8)
    np.testing.assert_array_equal(mask, np.repeat(IDS.any(axis=1)[:, None], 3, axis=1))
    words = embedded(layer, IDS)
    for block in layer.encoder[:2]:
        words = encoder_block(block, words, IDS != 0)
    words = norm(layer.encoder[2], words)
    sentence = np.repeat(array(layer.queries).astype("float64"), 4, axis=0)
    for block in layer.decoder:
        sentence = decoder_block(block, sentence, words, memory_mask=IDS != 0)
    expected = norm(layer.sentence_norm, sentence)
    np.testing.assert_allclose(tokens[mask[:, 0]], expected[mask[:, 0]], atol=5e-6)
    np.testing.assert_array_equal(tokens[2], 0.0)  # the empty text


def test_encoded_words_are_the_formula():
    layer = built(Text(WORDS, 4, depth=1, num_heads=2, mlp_width=9, width=8), IDS)
    tokens, mask = values(layer, IDS)
    expected = norm(layer.encoder[1], encoder_block(layer.encoder[0], embedded(layer, IDS), IDS != 0))
    np.testing.assert_allclose(tokens[mask], expected[mask], atol=5e-6)


def test_the_order_of_words_counts_and_so_does_every_word():
    layer = built(Text(WORDS, 4, sentence=2, width=8), IDS)
    sentences = np.array([[2, 3, 4, 5], [3, 2, 4, 5], [2, 3, 4, 6], [2, 3, 4, 0]], "int32")
    tokens = values(layer, sentences)[0]
    for other in tokens[1:]:
        assert np.abs(other - tokens[0]).max() > 1e-3


def test_the_order_weighs_as_much_as_the_words():
    # With positions of 0.02 beside words of 1.0 a model learns a bag of words and stops there.
    keras.utils.set_random_seed(0)
    layer = Text(50, length=20, width=64)
    layer.build((None, 20))
    words, places = (np.std(np.asarray(x)) for x in (layer.table, layer.positions.table))
    assert 0.8 < places / words < 1.25


def test_padding_changes_nothing():
    """A text in a longer model is the same text; the table's row of padding is of no meaning."""
    short = built(Text(WORDS, 2, sentence=2, width=8), IDS[:, :2])
    long = Text(WORDS, 6, sentence=2, width=8)
    long.build((None, 6))
    for target, source in zip(long.weights, short.weights, strict=True):
        value = array(source)
        target.assign(
            np.pad(value, ((0, 0), (0, 4), (0, 0)), constant_values=np.nan)
            if "positions" in source.path
            else value
        )
    long.table.assign(np.where(np.arange(7)[:, None] == 0, np.nan, array(short.table)))
    ids = np.array([[2, 3], [4, 0], [0, 0]], "int32")
    a, b = values(short, ids), values(long, np.pad(ids, ((0, 0), (0, 4))))
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_allclose(b[0], a[0], atol=1e-6)


def test_texts_go_in_as_strings_outside_of_the_graph(tmp_path):
    layer = built(Text(WORDS, 4, width=8), IDS)
    texts = ["a red ball", "", "Blue 球!", "🙂 مكعب"]
    ids = layer.encode(texts)
    np.testing.assert_array_equal(ids, [[1, 2, 3, 0], [0] * 4, [4, 6, 0, 0], [1, 1, 0, 0]])
    for given in (texts, np.array(texts), np.array(texts, object)):
        np.testing.assert_array_equal(array(layer(given)[0]), array(layer(ids)[0]))
    np.testing.assert_array_equal(layer.encode("red"), [[2, 0, 0, 0]])
    np.testing.assert_array_equal(array(layer("red")[1]), [[True, False, False, False]])
    with pytest.warns(UserWarning, match="1 word cut from 1 of 1 texts: the model takes 4 words"):
        layer.encode("red red red red red")
    with pytest.raises(InputError, match="strings become ids outside of the graph"):
        layer(np.array([b"red"]))
    with pytest.raises(InputError, match="strings become ids outside of the graph"):
        layer(keras.Input((4,), dtype="string"))
    with pytest.raises(InputError, match="must be a string, not int"):
        layer.encode([3])
    with pytest.raises(
        InputError, match="knows only the size of its vocabulary, 7: make it with a Vocabulary"
    ):
        Text(7, 4).encode(["red"])


def test_the_vocabulary_is_saved_with_the_model(tmp_path):
    ids = keras.Input((4,), dtype="int32")
    model = keras.Model(ids, Text(WORDS, 4, sentence=2, width=8, name="text")(ids))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("text")
    assert loaded.vocabulary == WORDS
    np.testing.assert_array_equal(loaded.encode(["blue 球"]), [[4, 6, 0, 0]])
    assert Text(7, 4).get_config()["vocabulary"] == 7 and Text(list(WORDS.words), 4).vocabulary == WORDS


def test_dropout_acts_in_training_only():
    layer = built(Text(WORDS, 4, sentence=2, dropout=0.5, width=8), IDS)
    still = values(layer, IDS)[0]
    np.testing.assert_array_equal(values(layer, IDS, training=False)[0], still)
    assert np.abs(values(layer, IDS, training=True)[0] - still).max() > 1e-2


# Prediction of visual features.


def test_the_prediction_is_a_projection_of_the_mean():
    sentence, mask = noise(3, 4, 8), np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
    layer = built(VisualPrediction(5), sentence)
    kernel, bias = (array(w) for w in layer.weights)
    np.testing.assert_allclose(values(layer, sentence), sentence.mean(axis=1) @ kernel + bias, atol=1e-5)
    expected = [x[m].mean(axis=0) if m.any() else np.zeros(8) for x, m in zip(sentence, mask, strict=True)]
    np.testing.assert_allclose(values(layer, sentence, mask=mask), expected @ kernel + bias, atol=1e-5)


def test_the_loss_is_the_formula():
    p, t = noise(3, 4, 5), noise(3, 4, 5, seed=1)
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    a, b = p.astype("float64"), t.astype("float64")
    distances = {
        "cosine": 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1),
        "l2": ((a - b) ** 2).mean(-1),
    }
    for kind, expected in distances.items():
        found = visual_prediction_loss(p, t, kind)
        np.testing.assert_allclose(array(found), expected.mean(), atol=1e-6)
        assert array(found).dtype == "float32" and array(found).shape == ()
        np.testing.assert_allclose(
            array(visual_prediction_loss(p, t, kind, mask)), expected[mask].mean(), atol=1e-6
        )
        dirty = np.where(mask[..., None], t, np.nan)
        np.testing.assert_allclose(
            array(visual_prediction_loss(p, dirty, kind, mask.astype("float32"))),
            expected[mask].mean(),
            atol=1e-6,
        )
        assert array(visual_prediction_loss(p, t, kind, np.zeros((3, 4), bool))) == 0
        np.testing.assert_allclose(
            array(visual_prediction_loss(p[:, 0], t[:, 0], kind)), expected[:, 0].mean(), atol=1e-6
        )
    assert array(visual_prediction_loss(p, 3 * p)) == pytest.approx(0, abs=1e-6)
    assert array(visual_prediction_loss(p, -p)) == pytest.approx(2, abs=1e-6)
    half = array(visual_prediction_loss(ops.cast(p, "bfloat16"), t))
    assert half.dtype == "float32" and half == pytest.approx(distances["cosine"].mean(), abs=0.02)


class Loss(keras.layers.Layer):
    def __init__(self, kind, mask=None):
        super().__init__()
        self.kind, self.mask = kind, mask
        self.built = True

    def call(self, predicted, target):
        # With target * 0 the gradient of the target exists, and is 0 where none flows.
        return ops.reshape(
            visual_prediction_loss(predicted, target, self.kind, self.mask), (1,)
        ) + 0 * ops.sum(target)


@pytest.mark.needs_gradients
@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_the_target_gets_no_gradient_and_the_prediction_the_right_one(kind):
    p, t = noise(2, 3), noise(2, 3, seed=1)
    to_p, to_t = gradients(Loss(kind), p, t)
    np.testing.assert_array_equal(to_t, 0.0)
    factor = noise(1, seed=90)[0]  # what the harness multiplies the output by
    for place in np.ndindex(p.shape):
        ends = []
        for step in (1e-2, -1e-2):
            moved = p.astype("float64")
            moved[place] += step
            ends.append(float(array(visual_prediction_loss(moved.astype("float32"), t, kind))))
        assert to_p[place] == pytest.approx(factor * (ends[0] - ends[1]) / 2e-2, abs=2e-3)
    # A prediction of zeros, as at the first step of a head that starts at 0, and NaN where nothing counts.
    zero = np.zeros((2, 3), "float32")
    assert np.isfinite(gradients(Loss(kind), zero, t)[0]).all()
    zero[1] = np.nan
    masked = gradients(Loss(kind, np.array([True, False])), zero, t)[0]
    assert np.isfinite(masked).all()
    np.testing.assert_array_equal(masked[1], 0.0)


def test_impossible_predictions_are_refused():
    with pytest.raises(InputError, match="unknown distance 'l1'"):
        visual_prediction_loss(noise(2, 3), noise(2, 3), "l1")
    with pytest.raises(InputError, match=r"predicted features \[2, 3\] and those to predict \[2, 4, 3\]"):
        visual_prediction_loss(noise(2, 3), noise(2, 4, 3))


# Captions.


def caption_case(seed=0):
    layer = CaptionDecoder(WORDS, 4, depth=2, num_heads=2, mlp_width=9)
    return built(layer, IDS, noise(4, 5, 8), seed=seed), noise(4, 5, 8)


def test_captions_are_the_formula():
    layer, memory = caption_case()
    mask = np.random.default_rng(0).random((4, 5)) < 0.6
    mask[:, 0], mask[3] = True, False
    w = weights_of(layer)
    x = (
        np.concatenate([np.repeat(w["start"], 4, axis=0), w["table"][IDS][:, :-1]], axis=1)
        + w["positions/table"]
    )
    seen = norm(layer.memory_norm, memory.astype("float64"))
    for block in layer.blocks:
        x = decoder_block(block, x, seen, np.tril(np.ones((1, 4, 4), bool)).repeat(4, 0), mask)
    expected = norm(layer.norm, x) @ w["head/kernel"] + w["head/bias"]
    np.testing.assert_allclose(values(layer, IDS, memory, memory_mask=mask), expected, atol=1e-5)


def test_a_word_is_predicted_from_those_before_it():
    layer, memory = caption_case()
    logits = values(layer, IDS, memory)
    assert logits.shape == (4, 4, 7)
    for at in range(4):
        changed = IDS.copy()
        changed[:, at] = (changed[:, at] + 1) % 7
        moved = np.abs(values(layer, changed, memory) - logits).max(axis=(0, 2))
        np.testing.assert_array_equal(moved[: at + 1], 0.0)
        assert (moved[at + 1 :] > 1e-4).all()
    mask = np.array([[1, 1, 1, 0, 0]] * 4, bool)
    expected = values(layer, IDS, memory, memory_mask=mask)
    for content in (7, np.nan):
        dirty = np.where(mask[..., None], memory, np.float32(content))
        np.testing.assert_allclose(values(layer, IDS, dirty, memory_mask=mask), expected, atol=1e-6)


def test_targets_count_the_words_and_the_end():
    found = array(caption_targets(IDS))
    np.testing.assert_array_equal(found, [[2, 3, 4, 1], [5, 6, 0, -1], [0, -1, -1, -1], [3, 0, -1, -1]])
    assert found.dtype == "int32"
    np.testing.assert_array_equal(array(caption_targets(IDS[3:], ignore=9)), [[3, 0, 9, 9]])


def test_greedy_takes_the_best_word_until_the_end():
    layer, memory = caption_case(3)
    found = layer.greedy(memory)
    assert found.shape == (4, 4) and found.dtype == "int32"
    logits = array(layer(found, memory))
    logits[..., 1] = -np.inf
    for caption, scores in zip(found, logits, strict=True):
        words = np.flatnonzero(caption == 0)
        end = words[0] if len(words) else 4
        np.testing.assert_array_equal(caption[:end], scores.argmax(-1)[:end])
        np.testing.assert_array_equal(caption[end:], 0)
        if end < 4:
            assert scores[end].argmax() == 0
    layer.head.bias.assign(np.array([0, 100, 0, 50, 0, 0, 0], "float32"))
    np.testing.assert_array_equal(layer.greedy(memory), 3)  # not the unknown word
    layer.head.bias.assign(np.array([100, 0, 0, 0, 0, 0, 0], "float32"))
    np.testing.assert_array_equal(layer.greedy(memory), 0)
    # Words that would follow the end are none.
    wanted = ops.one_hot(np.array([[3, 0, 5, 2]] * 2 + [[0, 4, 4, 4]] + [[6, 2, 3, 0]]), 7)
    layer.head.fake_quantize = lambda role, x: wanted if role == "output" else x
    np.testing.assert_array_equal(layer.greedy(memory), [[3, 0, 0, 0]] * 2 + [[0] * 4, [6, 2, 3, 0]])
    with pytest.raises(InputError, match=r"captions are ids \[batch, 4\], not \[4, 3\]"):
        layer(IDS[:, :3], memory)


@pytest.mark.needs_gradients
def test_captions_are_learned():
    """Four pictures, four captions: after some steps greedy decoding says them, ends included."""
    keras.utils.set_random_seed(0)
    captions, memory = np.array([[2, 3, 0], [4, 5, 0], [6, 0, 0], [2, 6, 5]], "int32"), noise(4, 2, 8)
    layer = CaptionDecoder(WORDS, 3, depth=1, num_heads=2, mlp_width=16)
    layer.build((None, 3), (None, 2, 8))
    targets = array(caption_targets(captions))
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(layer.trainable_variables)

    def loss(logits):
        each = keras.losses.sparse_categorical_crossentropy(np.maximum(targets, 0), logits, from_logits=True)
        return ops.sum(ops.where(targets >= 0, each, 0.0))

    for _ in range(60):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss(layer(captions, memory))
            found = tape.gradient(value, [v.value for v in layer.trainable_variables])
        else:
            found = _jax_gradients(layer, loss, captions, memory)
        optimizer.apply_gradients(zip(found, layer.trainable_variables, strict=True))
    np.testing.assert_array_equal(layer.greedy(memory), captions)


_compiled = {}


def _jax_gradients(layer, loss, captions, memory):
    import jax

    def function(state):
        return loss(stateless(layer, state, (captions, memory), {}, {})[0])

    program = _compiled.setdefault(layer, jax.jit(jax.grad(function)))
    return program([v.value for v in layer.variables])
