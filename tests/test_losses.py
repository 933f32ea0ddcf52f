"""The losses against sums written out in NumPy, and against Keras where Keras has them."""

import json

import keras
import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.losses import MaskedReconstruction, SmoothedCrossEntropy, patch_statistics

BACKEND = keras.backend.backend()
needs_gradients = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy has no gradients")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(x):
    """A tensor as NumPy float32."""
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


B, T, C = 6, 5, 7
LOGITS, STEPS = 3 * noise(B, C), 3 * noise(B, T, C, seed=1)
LABELS = np.array([0, 3, 6, 3, 1, 5])
WORDS = np.random.default_rng(2).integers(0, C, (B, T))


def one_hot(labels):
    return np.eye(C, dtype="float32")[labels]


def logs(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def costs(labels, logits, e):
    """-sum of q log p, q = (1 - e) on the label + e / C on every class: Szegedy et al. 2015, section 7."""
    return -(((1 - e) * one_hot(labels) + e / C) * logs(logits)).sum(-1)


def value(loss, *arguments, **options):
    return float(array(loss(*arguments, **options)))


def gradient(loss, labels, predictions, *weights):
    """By the predictions."""
    predictions = np.asarray(predictions, "float32")
    if BACKEND == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: loss(labels, x, *weights))(predictions))
    import tensorflow as tf

    x = tf.convert_to_tensor(predictions)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = loss(labels, x, *weights)
    return np.asarray(tape.gradient(total, x))


@pytest.mark.parametrize("e", [0.0, 0.1, 0.6])
def test_uniform_noise_equals_the_sum_written_out_and_keras(e):
    expected = costs(LABELS, LOGITS, e).mean()
    assert value(SmoothedCrossEntropy(e), LABELS, LOGITS) == pytest.approx(expected, rel=1e-6)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=e)
    assert value(theirs, one_hot(LABELS), LOGITS) == pytest.approx(expected, rel=1e-6)
    probabilities = np.exp(logs(LOGITS)).astype("float32")
    ours = value(SmoothedCrossEntropy(e, from_logits=False), LABELS, 3 * probabilities)  # Keras divides too
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=e)
    assert ours == pytest.approx(value(theirs, one_hot(LABELS), probabilities), rel=1e-6)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_sparse_labels_equal_keras_with_weights_and_a_class_to_ignore():
    weights = np.array([1, 0, 2, 0.5, 1, 3], "float32")
    for ignore in (None, 3):
        theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore)
        for given in ((), (weights,)):
            expected = value(theirs, LABELS, LOGITS, *given)
            assert value(SmoothedCrossEntropy(0.0, ignore=ignore), LABELS, LOGITS, *given) == pytest.approx(
                expected, rel=1e-6
            )


@pytest.mark.parametrize("noise", ["uniform", "sampled"])
@pytest.mark.parametrize("ignore", [None, 0])
def test_sparse_and_one_hot_labels_give_equal_values(noise, ignore):
    for labels, predictions in ((LABELS, LOGITS), (WORDS, STEPS)):
        answers = [
            value(SmoothedCrossEntropy(0.2, noise, ignore=ignore, seed=1), form, predictions)
            for form in (labels, labels[..., None], labels.astype("float32"), one_hot(labels))
        ]
        np.testing.assert_allclose(answers, answers[0], rtol=1e-6)
        assert answers[0] > 0.1


def test_soft_labels_are_smoothed_as_in_keras():
    shares = np.exp(logs(noise(B, C, seed=3))).astype("float32")
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = value(theirs, shares, LOGITS)
    assert value(SmoothedCrossEntropy(0.1), shares, LOGITS) == pytest.approx(expected, rel=1e-6)


def test_sampled_noise_goes_to_one_class_of_each_example():
    e = 0.3
    given = array(SmoothedCrossEntropy(e, "sampled", reduction="none", seed=0)(LABELS, LOGITS))
    p = logs(LOGITS)
    each = -(1 - e) * p[np.arange(B), LABELS][:, None] - e * p  # with noise on class 0, 1, ...
    assert (np.abs(each - given[:, None]) < 1e-5).any(axis=1).all()


def test_sampled_noise_is_even_and_its_expectation_is_uniform():
    count, e = 6000, 0.5
    label = np.full(count, 2)
    same = np.repeat(LOGITS[:1], count, axis=0)
    given = array(SmoothedCrossEntropy(e, "sampled", reduction="none", seed=4)(label, same))
    p = logs(LOGITS[0])
    drawn = np.abs(-(1 - e) * p[2] - e * p - given[:, None]).argmin(axis=1)
    share = np.bincount(drawn, minlength=C) / count
    np.testing.assert_allclose(share, 1 / C, atol=5 * np.sqrt(1 / C / count))
    assert given.mean() == pytest.approx(costs(2, LOGITS[0], e), abs=5 * given.std() / np.sqrt(count))


def test_the_seed_decides_and_the_next_call_draws_anew():
    def draws(seed):
        loss = SmoothedCrossEntropy(0.5, "sampled", seed=seed)
        return [value(loss, WORDS, STEPS) for _ in range(3)]

    assert draws(1) == draws(1) and draws(1) != draws(2)
    assert len(set(draws(1))) == 3


def test_a_generator_that_stands_still_draws_by_the_predictions():
    """So it is in a compiled step on JAX, and on the replicas of a distribution strategy."""
    e, drawn = 0.5, []
    for i in range(400):
        logits = noise(1, C, seed=10 + i)
        given = value(SmoothedCrossEntropy(e, "sampled", seed=1), LABELS[:1], logits)
        drawn.append(np.abs(-(1 - e) * logs(logits)[0, LABELS[0]] - e * logs(logits)[0] - given).argmin())
    share = np.bincount(drawn, minlength=C) / len(drawn)
    np.testing.assert_allclose(share, 1 / C, atol=5 * np.sqrt(1 / C / len(drawn)))


def padded(lengths=(5, 3, 1, 0, 2, 4)):
    return np.arange(T) < np.array(lengths)[:, None]


def over_steps(labels, logits, e, weights):
    """Mean over the steps that count, then over the sequences that have one: a loop."""
    means = []
    for words, predictions, w in zip(labels, logits, weights, strict=True):
        each = [
            costs(word, p, e) * weight
            for word, p, weight in zip(words, predictions, w, strict=True)
            if weight
        ]
        if each:
            means.append(sum(each) / w.sum())
    return np.mean(means)


def test_a_sequence_counts_the_steps_that_are_not_ignored():
    keep = padded()
    expected = over_steps(WORDS, STEPS, 0.1, keep.astype(float))
    for ignore in (-1, 255):
        words = np.where(keep, WORDS, ignore)
        assert value(SmoothedCrossEntropy(0.1, ignore=ignore), words, STEPS) == pytest.approx(
            expected, rel=1e-6
        )
    hot = one_hot(WORDS) * keep[..., None]  # no class at all
    assert value(SmoothedCrossEntropy(0.1, ignore=-1), hot, STEPS) == pytest.approx(expected, rel=1e-6)
    for mask in (keep, keep.astype("float32"), keep.astype("int32"), keep[..., None]):
        assert value(SmoothedCrossEntropy(0.1), WORDS, STEPS, mask) == pytest.approx(expected, rel=1e-6)
    whole = costs(WORDS, STEPS, 0.1).mean()
    assert value(SmoothedCrossEntropy(0.1), WORDS, STEPS) == pytest.approx(whole, rel=1e-6)
    assert abs(whole - expected) > 0.01


def test_ignored_and_masked_steps_are_left_out_together():
    words = np.where(WORDS == 4, 2, WORDS)
    words[:, 0] = 4
    keep = padded((5, 3, 1, 0, 2, 4))
    weights = keep * np.random.default_rng(0).uniform(0.5, 2, keep.shape).astype("float32")
    expected = over_steps(words, STEPS, 0.1, weights * (words != 4))
    for form in (words, one_hot(words)):
        assert value(SmoothedCrossEntropy(0.1, ignore=4), form, STEPS, weights) == pytest.approx(
            expected, rel=1e-6
        )


def test_each_sequence_can_have_a_weight():
    weights = np.array([1, 0, 2, 0.5, 1, 3], "float32")
    expected = (costs(WORDS, STEPS, 0.1).mean(1) * weights).mean()
    for form in (weights, weights[:, None]):
        assert value(SmoothedCrossEntropy(0.1), WORDS, STEPS, form) == pytest.approx(expected, rel=1e-6)


def test_padding_and_empty_sequences_change_nothing():
    keep = padded()
    words = np.where(keep, WORDS, -1)
    loss = SmoothedCrossEntropy(0.1, ignore=-1)
    expected = value(loss, words, STEPS)
    longer = np.pad(words, ((0, 2), (0, 3)), constant_values=-1)
    for content in (0.0, 50.0, np.nan, np.inf):
        predictions = np.pad(STEPS, ((0, 2), (0, 3), (0, 0)), constant_values=content)
        assert value(loss, longer, predictions) == pytest.approx(expected, rel=1e-6)
        mask = np.pad(keep, ((0, 2), (0, 3)))
        assert value(SmoothedCrossEntropy(0.1), np.maximum(longer, 0), predictions, mask) == pytest.approx(
            expected, rel=1e-6
        )
    assert value(loss, np.full((2, T), -1), STEPS[:2]) == 0.0
    assert value(loss, np.full(B, -1), LOGITS) == 0.0


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum", lambda c, w: (c * w).sum()),
        ("mean", lambda c, w: (c * w).sum() / (LABELS != 3).sum()),
        ("mean_with_sample_weight", lambda c, w: (c * w).sum() / w.sum()),
        ("none", lambda c, w: c * w),
    ],
)
def test_reductions(reduction, expected):
    weights = np.array([1, 4, 2, 0.5, 1, 3], "float32")
    loss = SmoothedCrossEntropy(0.1, ignore=3, reduction=reduction)
    wanted = expected(costs(LABELS, LOGITS, 0.1), weights * (LABELS != 3))
    np.testing.assert_allclose(array(loss(LABELS, LOGITS, weights)), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    logits = keras.ops.cast(40 * STEPS, dtype)
    exact = array(logits)
    loss = SmoothedCrossEntropy(0.1)(WORDS, logits)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert float(array(loss)) == pytest.approx(costs(WORDS, exact, 0.1).mean(), rel=1e-5)


def test_large_logits_are_no_trouble():
    logits = np.array([[1e4, -1e4, 0, 0, 0, 0, 0], [0, -np.inf, 3, 0, 0, 0, 0]], "float32")
    assert value(SmoothedCrossEntropy(0.5), [1, 0], logits[:1].repeat(2, 0)) == pytest.approx(
        np.mean(costs(np.array([1, 0]), logits[:1].repeat(2, 0), 0.5)), rel=1e-6
    )
    for form in (np.array([2]), one_hot([2])):  # a class that is ruled out, without smoothing
        assert value(SmoothedCrossEntropy(0.0), form, logits[1:]) == pytest.approx(
            -logs(logits[1, [0, 2, 3, 4, 5, 6]])[1], rel=1e-6
        )
    assert value(SmoothedCrossEntropy(0.0, from_logits=False), [1, 0], one_hot([0, 0])) > 1


def test_a_label_that_is_no_class_is_seen():
    for wrong in (C, -1, 300):
        assert np.isnan(value(SmoothedCrossEntropy(0.1), np.full(B, wrong), LOGITS))
    assert np.isnan(value(SmoothedCrossEntropy(0.1, ignore=-1), [C, -1], LOGITS[:2]))
    assert np.isfinite(value(SmoothedCrossEntropy(0.1, ignore=-1), [2, -1], LOGITS[:2]))


@needs_gradients
def test_the_gradient_is_softmax_minus_the_smoothed_label_and_0_where_nothing_counts():
    keep = padded()
    e, words = 0.2, np.where(keep, WORDS, -1)
    q = (1 - e) * one_hot(WORDS) + e / C
    share = keep / np.maximum(keep.sum(1, keepdims=True), 1) / (keep.sum(1) > 0).sum()
    expected = (np.exp(logs(STEPS)) - q) * share[..., None]
    hidden = np.where(keep[..., None], STEPS, np.nan)
    for predictions in (STEPS, hidden):
        given = gradient(SmoothedCrossEntropy(e, ignore=-1), words, predictions)
        np.testing.assert_allclose(given, expected, atol=1e-6)


def saved(loss):
    """`loss` after its config went through JSON."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    return keras.saving.deserialize_keras_object(config)


def test_configs_rebuild_the_losses():
    loss = SmoothedCrossEntropy(0.3, "sampled", False, ignore=2, seed=5, reduction="sum", name="mine")
    twin = saved(loss)
    assert twin.get_config() == loss.get_config() and len(loss.get_config()) == 7
    probabilities = np.exp(logs(STEPS)).astype("float32")
    assert value(twin, WORDS, probabilities) == value(loss, WORDS, probabilities)
    loss = MaskedReconstruction(False, "l1", "sum", "mine")
    assert saved(loss).get_config() == loss.get_config() and len(loss.get_config()) == 4
    assert value(saved(loss), TARGET, PREDICTED, MASK) == value(loss, TARGET, PREDICTED, MASK)


@needs_gradients
def test_a_model_is_compiled_with_it_and_learns():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((T, C))
    model = keras.Model(inputs, keras.layers.Dense(C)(inputs))
    words = np.where(padded(), WORDS, 0)
    model.compile(keras.optimizers.Adam(0.1), SmoothedCrossEntropy(0.1, "sampled", ignore=0, seed=0))
    history = model.fit(one_hot(words), words, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    answer = array(model(one_hot(words))).argmax(-1)
    assert (answer == words)[words > 0].all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothedCrossEntropy(1.0), r"smoothing must be in \[0, 1\), not 1.0"),
        (lambda: SmoothedCrossEntropy(-0.1), r"smoothing must be in \[0, 1\), not -0.1"),
        (lambda: SmoothedCrossEntropy("0.1"), r"smoothing must be in \[0, 1\), not '0.1'"),
        (lambda: SmoothedCrossEntropy(0.1, "sample"), "unknown noise 'sample'.*Did you mean 'sampled'"),
        (lambda: SmoothedCrossEntropy(0.1, from_logits=1), "from_logits must be True or False, not 1"),
        (lambda: SmoothedCrossEntropy(0.1, ignore="pad"), "ignore must be a label, an integer, or None"),
        (lambda: SmoothedCrossEntropy(0.1, ignore=True), "ignore must be a label.*not True"),
        (
            lambda: SmoothedCrossEntropy(0.1)(WORDS, LOGITS),
            r"labels of shape \[6, 5\] for predictions of shape \[6, 7\].*\[6\] or one-hot of shape \[6, 7\]",
        ),
        (
            lambda: SmoothedCrossEntropy(0.1)(LABELS, STEPS),
            r"labels of shape \[6\] .*shape \[6, 5\] or one-hot",
        ),
        (lambda: SmoothedCrossEntropy(0.1)(LABELS[:5], LOGITS), r"labels of shape \[5\]"),
        (lambda: SmoothedCrossEntropy(0.1)(LABELS, LOGITS[:, :1]), r"at least 2 classes, not \[6, 1\]"),
        (lambda: SmoothedCrossEntropy(0.1)(LABELS, LABELS), r"predictions must be \[batch, num_classes\]"),
        (
            lambda: SmoothedCrossEntropy(0.1)(WORDS, STEPS, np.ones((6, 4))),
            r"sample_weight of shape \[6, 4\]: it must be \[6\].* or \[6, 5\], one number for each label",
        ),
        (lambda: SmoothedCrossEntropy(0.1)(LABELS, LOGITS, np.ones((6, 7))), r"must be \[6\], one number"),
        (lambda: MaskedReconstruction(distance="l3"), "unknown distance 'l3'.*l2, l1"),
        (lambda: MaskedReconstruction("yes"), "normalise must be True or False, not 'yes'"),
        (lambda: MaskedReconstruction()(TARGET, PREDICTED[:, :3], MASK), r"\[3, 4, 6\] and \[3, 3, 6\]"),
        (
            lambda: MaskedReconstruction()(TARGET[0], PREDICTED[0]),
            r"must both be \[batch, patches, numbers\]",
        ),
        (lambda: MaskedReconstruction()(TARGET, PREDICTED, MASK[:, :3]), r"mask of shape \[3, 3\].*\[3, 4\]"),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Reconstruction.

TARGET, PREDICTED = 2 + 3 * noise(3, 4, 6, seed=5), noise(3, 4, 6, seed=6)
MASK = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)


def reconstruction(target, predicted, mask, normalise, kind):
    """Patch by patch."""
    each = []
    for b, n in np.argwhere(mask):
        t = target[b, n].astype(np.float64)
        if normalise:
            t = (t - t.mean()) / np.sqrt(t.var() + 1e-6)
        error = predicted[b, n] - t
        each.append(np.abs(error).mean() if kind == "l1" else (error**2).mean())
    return np.mean(each)


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("normalise", [False, True])
def test_reconstruction_counts_what_is_masked_and_nothing_else(normalise, kind):
    loss = MaskedReconstruction(normalise, kind)
    expected = reconstruction(TARGET, PREDICTED, MASK, normalise, kind)
    for mask in (MASK, MASK.astype("float32"), MASK.astype("int32")):
        assert value(loss, TARGET, PREDICTED, mask) == pytest.approx(expected, rel=1e-5)
    everything = reconstruction(TARGET, PREDICTED, np.ones_like(MASK), normalise, kind)
    assert value(loss, TARGET, PREDICTED) == pytest.approx(everything, rel=1e-5)
    for content in (100.0, np.nan, np.inf):
        target, predicted = (np.where(MASK[..., None], x, content) for x in (TARGET, PREDICTED))
        assert value(loss, target, predicted, MASK) == pytest.approx(expected, rel=1e-5)


def test_nothing_masked_costs_nothing_and_a_flat_patch_is_zeros():
    assert value(MaskedReconstruction(), TARGET, PREDICTED, np.zeros((3, 4))) == 0.0
    flat = np.full((1, 2, 6), 5.0, "float32")
    assert value(MaskedReconstruction(), flat, PREDICTED[:1, :2]) == pytest.approx(
        (PREDICTED[:1, :2] ** 2).mean(), rel=1e-5
    )
    mean, deviation = (array(x)[0, 0, 0] for x in patch_statistics(flat))
    assert (mean, deviation) == (5.0, pytest.approx(1e-3))


@needs_gradients
def test_hidden_patches_alone_have_a_gradient():
    hidden = np.where(MASK[..., None], PREDICTED, np.nan)
    given = gradient(MaskedReconstruction(False), TARGET, hidden, MASK)
    expected = np.where(MASK[..., None], 2 * (PREDICTED - TARGET) / 6 / MASK.sum(), 0)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)
    none = np.zeros_like(MASK)
    np.testing.assert_array_equal(gradient(MaskedReconstruction(), TARGET, PREDICTED, none), 0)


def test_reconstruction_of_half_precision_is_computed_in_float32():
    predicted = keras.ops.cast(PREDICTED, "bfloat16")
    loss = MaskedReconstruction()(TARGET, predicted, MASK)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    expected = reconstruction(TARGET, array(predicted), MASK, True, "l2")
    assert float(array(loss)) == pytest.approx(expected, rel=1e-5)
