"""What a group of layers loses, on a model of which one group is made to lose everything."""

import dataclasses
import io

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.examples import sample
from keras_vit.export.quantization import group_evaluator
from keras_vit.export.quantization import sensitivity as module
from keras_vit.export.quantization.group_evaluator import GroupEvaluator, Score
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.quantization.sensitivity import (
    Choice,
    choose_protected,
    cost,
    protect_list,
    sensitivity,
)
from keras_vit.export.quantization.sensitivity_report import sentences, table

WEAK = "block_1.mlp"
GROUPS = ["patches", *(f"block_{i}.{part}" for i in range(2) for part in ("attention", "mlp")), "head"]


@pytest.fixture(scope="module")
def model():
    """Its quantized block_1.mlp answers nonsense, though the float one is sound.

    One hidden unit is always 0, as GELU(-20) is; its weights are so large that, next to them, int8 rounds
    all others of the layer to 0.
    """
    keras.utils.set_random_seed(0)
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    model = ViT("Nano/4", image_size=8, num_classes=3, depth=2, preprocessing=preprocessing)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + random.normal(0, 0.15, weight.shape))
    mlp = model.blocks[1].mlp
    bias, kernel = np.array(mlp.expand.bias), np.array(mlp.contract.kernel)
    bias[0], kernel = -20.0, 4 * kernel
    kernel[0] = 1000.0 * (-1.0) ** np.arange(kernel.shape[1])  # without a mean, which folding would take out
    mlp.expand.kernel.assign(np.array(mlp.expand.kernel) * (np.arange(len(bias)) != 0))
    mlp.expand.bias.assign(bias)
    mlp.contract.kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def images(model):
    """Noise, of which the float model is surest."""
    images = np.random.default_rng(1).integers(0, 256, (500, 8, 8, 3), dtype=np.uint8)
    first, second = np.sort(logits(model, images), -1).T[:-3:-1]
    return images[np.argsort(second - first)[:90]]


@pytest.fixture(scope="module")
def labels(model, images):
    """What the float model answers: it is never wrong."""
    return logits(model, images).argmax(-1)


@pytest.fixture(scope="module")
def aware(model):
    return post_training(model, "int8")


@pytest.fixture(scope="module")
def evaluator(aware, images, labels):
    return GroupEvaluator(aware, (images, labels))


def logits(model, images):
    mean, std = (np.float32(model.preprocessing[key]) for key in ("mean", "std"))
    return np.asarray(model((images / np.float32(255) - mean) / std), "float64")


def softmax(values):
    e = np.exp(values - values.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("protect", [[], [WEAK], ["patches", "block_0.attention"]])
def test_a_score_is_that_of_a_model_built_so(evaluator, model, images, labels, protect):
    p = softmax(logits(model, images))
    q = softmax(logits(post_training(model, "int8", protect=protect), images))
    score = evaluator.score(protect)
    assert score.kl == pytest.approx(np.mean(np.sum(p * np.log(p / q), -1)), rel=0.05, abs=2e-4)
    assert score.top1 == pytest.approx(100 * np.mean(q.argmax(-1) == labels), abs=1.2)
    assert score.drop == pytest.approx(100 - score.top1)


def test_everything_switched_off_is_the_float_model(evaluator, model, images):
    np.testing.assert_allclose(evaluator.logits(GROUPS), logits(model, images), atol=2e-5)


def test_static_ranges_switch_too(model, images, labels):
    aware = post_training(model, "int8_static", images)
    evaluator = GroupEvaluator(aware, (images, labels))
    assert set(evaluator.groups) == set(GROUPS)
    assert sorted(key for keys in evaluator.groups.values() for key in keys) == sorted(aware.spec)
    rebuilt = post_training(model, "int8_static", images, ["patches", WEAK])
    difference = np.abs(evaluator.logits(["patches", WEAK]) - logits(rebuilt, images))
    assert (
        difference.mean() < 0.05 * np.abs(evaluator.logits(["patches", WEAK]) - logits(aware, images)).mean()
    )


def test_the_weak_group_is_found(evaluator):
    told = []
    scores = sensitivity(evaluator, lambda *seen: told.append(seen))
    assert next(iter(scores)) == WEAK and set(scores) == set(GROUPS)
    assert told == [(i, 6) for i in range(1, 7)]
    nothing = evaluator.score()
    assert nothing.drop > 10 and nothing.kl > 0.02
    assert scores[WEAK].drop < 3 and scores[WEAK].kl < 0.1 * nothing.kl
    assert all(scores[group].kl > 0.5 * nothing.kl for group in GROUPS if group != WEAK)
    protect, found, steps = protect_list(evaluator, scores, max_drop=3.0)
    assert protect == [WEAK] and found == scores[WEAK] and steps == [nothing, found]


def test_the_model_is_as_before(aware, evaluator):
    names, quantizers = [v.path for v in aware.variables], aware.quantizers
    evaluator.score([WEAK])
    assert aware.quantizers is quantizers and [v.path for v in aware.variables] == names
    with pytest.raises(RuntimeError), group_evaluator._replaced(aware, {}):
        assert aware.quantizers == {}
        raise RuntimeError
    assert aware.quantizers is quantizers


def test_the_sample_is_drawn_by_seed(aware, images, labels):
    evaluator = GroupEvaluator(aware, (images, labels), count=20, seed=3)
    chosen = sample(90, 20, seed=3)
    assert len(evaluator) == 20 and (chosen != np.arange(20)).any()
    expected = logits(aware, images[chosen])
    assert np.abs(evaluator.logits() - expected).mean() < 0.05 * np.abs(expected).mean()
    assert evaluator.score(GROUPS).top1 == 100, "the labels are those of the same pictures"


class Table:
    """A evaluator whose points lost are known for every set of groups; KL does not decide here."""

    def __init__(self, **lost):
        self.drop = {frozenset(name.replace("_", "")): value for name, value in lost.items()}

    def score(self, protect=()):
        lost = self.drop[frozenset(protect)]
        return Score(100 - lost, lost, lost)


ALONE = dict.fromkeys("abc")


def test_groups_are_protected_until_it_is_near_enough():
    evaluator = Table(_=5.0, a=3.0, ab=0.5, b=2.0)
    protect, found, steps = protect_list(evaluator, ALONE, max_drop=0.5)
    assert (protect, found.drop, [s.drop for s in steps]) == (["a", "b"], 0.5, [5.0, 3.0, 0.5])


def test_groups_that_turn_out_not_to_be_needed_are_left_out():
    evaluator = Table(_=5.0, a=4.0, ab=0.3, b=0.4)
    protect, found, _ = protect_list(evaluator, ALONE, max_drop=0.5)
    assert (protect, found.drop) == (["b"], 0.4)


def test_nothing_is_protected_without_need():
    assert protect_list(Table(_=0.5), ALONE, max_drop=0.5)[0] == []


def test_the_best_list_stands_in_for_one_that_is_not_there():
    """All three would be the float model. One group loses as little as two: the shorter list."""
    protect, found, steps = protect_list(Table(_=5.0, a=3.0, ab=3.0), ALONE, max_drop=0.5)
    assert (protect, found.drop, len(steps)) == (["a"], 3.0, 3)


CHOICE = Choice(
    profile="int8_static",
    protect=["block_0.mlp", "block_11.mlp"],
    score=Score(99.4, 0.4, 0.003),
    max_drop=0.5,
    images=500,
    scores={
        "block_0.mlp": Score(99.2, 0.6, 0.01),
        "block_11.mlp": Score(99.1, 0.7, 0.02),
        "head": Score(98.8, 1.0, 0.05),
    },
    steps=[Score(98.8, 1.0, 0.05), Score(99.2, 0.6, 0.01), Score(99.4, 0.4, 0.003)],
    milliseconds=(1.9, 2.1),
)


def test_what_is_said():
    assert sentences(CHOICE) == [
        "int8_static: keep block_0.mlp and block_11.mlp in float: costs 0.2 ms (1.9 to 2.1), gains 0.6 "
        "points of top-1 (of 1 lost, 0.4 are left); measured on 500 held-out pictures, where one is "
        "0.2 points"
    ]
    (line,) = sentences(dataclasses.replace(CHOICE, protect=[], score=CHOICE.steps[0], max_drop=1.0))
    assert "keep nothing in float: 1 points of top-1 are lost" in line
    first, second = sentences(dataclasses.replace(CHOICE, max_drop=0.1, milliseconds=None))
    assert "in float: gains 0.6 points" in first
    assert "no list loses 0.1 points or less, so this is the best one" in second


def test_what_is_shown():
    file = io.StringIO()
    Console(file=file, width=120).print(table(CHOICE))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in file.getvalue().splitlines()]
    assert [row for row in rows if row] == [
        ["nothing", "1.00", "", "0.05", "", "", ""],
        ["block_0.mlp", "0.60", "0.40", "0.01", "0.60", "0.01", "float"],
        ["block_11.mlp", "0.70", "0.30", "0.02", "0.40", "0.003", "float"],
        ["head", "1.00", "0.00", "0.05", "", "", ""],
    ]


def test_the_cost_is_that_of_the_two_files(model, aware, monkeypatch):
    """Without converting: `convert` and `benchmark` are tested elsewhere."""
    converted = {}

    def convert(source, target, profile):
        converted[target] = keras.models.load_model(source).protect, profile

    def benchmark(files, threads, seconds):
        assert [converted[file] for file in files] == [((), "int8"), ((WEAK,), "int8")]
        rows = [(2.0, 1.0), (2.6, 1.25)]  # where the second took 2.6, the first was slow, too
        return {"models": [{"latency_ms_p50": ms, "ratio": ratio, "error": error} for ms, ratio in rows]}

    monkeypatch.setattr(module, "convert", convert)
    monkeypatch.setattr(module, "benchmark", benchmark)
    protected = post_training(model, "int8", protect=[WEAK])
    error = None
    assert cost(aware, protected) == (2.0, 2.5)
    error = "killed by SIGSEGV"
    assert cost(aware, protected) is None


def test_a_list_is_chosen(model, images, labels):
    choice = choose_protected(model, "int8", None, (images, labels), 3.0, count=60, timed=False)
    assert choice.protect == [WEAK] and choice.reached and choice.images == 60
    assert choice.milliseconds is None
    assert choice.score.drop <= 3.0 < choice.steps[0].drop


def blank(count, height=8):
    return np.zeros((count, height, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "int8_full"}, "no layer of int8_full can be protected: all of it is int8"),
        ({"profile": "float32"}, "unknown profile 'float32'"),
        ({"max_drop": -1}, "max_drop is a number of points of top-1, from 0 to 100, not -1"),
        ({"max_drop": float("nan")}, "not nan"),
        ({"max_drop": True}, "not True"),
        ({"count": 0}, "count must be an integer from 1 on, not 0"),
        (
            {"data": (np.zeros((4, 8, 8, 3), "uint8"), np.arange(4))},
            "labels run from 0 to 3, but .* 3 classes",
        ),
        ({"data": (np.zeros((4, 9, 8, 3), "uint8"), np.zeros(4, int))}, r"images \[4, 9, 8, 3\] with labels"),
        ({"data": (np.zeros((0, 8, 8, 3), "uint8"), np.zeros(0, int))}, "with N > 0"),
        ({"data": (np.zeros((4, 8, 8, 3), "uint8"), np.zeros(3, int))}, "one label for each"),
    ],
)
def test_bad_input(model, images, labels, change, message):
    arguments = {"profile": "int8", "calibration": None, "data": (images, labels), "max_drop": 1.0}
    with pytest.raises(InputError, match=message) as caught:
        choose_protected(model, **{**arguments, **change}, timed=False)
    assert "\n" not in str(caught.value)


def test_protecting_everything_is_refused(model):
    with pytest.raises(InputError, match="in float, int8 quantizes nothing: protect less, or use float32"):
        post_training(model, "int8", protect=GROUPS)
