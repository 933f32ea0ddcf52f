"""Which parts of a model suffer from quantization, and which few to keep in float so that little is lost.

    choice = choose_protected(model, "int8_static", calibration, data, max_drop=0.5)
    rich.print(table(choice), *sentences(choice), sep="\\n")  # of sensitivity_report
    export(model, "dist", ["int8_static"], calibration, protect={"int8_static": choice.protect})

Measured on labelled pictures that the model was not trained on, with the fake-quantized Keras model,
which computes what the file will compute. A group is a block's attention, a block's MLP, the patches
or the head. Each group in turn is made float while all others stay quantized: that is what protecting
it brings; what quantizing it alone would cost is another number, as errors do not add up.

Groups are ranked by the KL divergence from the float model, which every picture has a part in; top-1 is
decided by a handful of them. In that order they are protected until top-1 is near enough, and those
that turn out not to be needed are quantized again.
"""

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_vit.errors import InputError
from keras_vit.export.examples import labelled_images, sample
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.calibration import checked_integer
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.tflite.convert import convert
from keras_vit.export.tflite.fold import in_float32
from keras_vit.export.verification.benchmark import benchmark
from keras_vit.export.verification.scores import NUMBERS, checked_truth, decided, divergence
from keras_vit.models.activation import activate

SAMPLE = 512  # held-out pictures
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Score:
    """How far a quantized model is from the float one.

    Attributes:
        top1: share of right answers, in percent; of a sigmoid see `export.scores`.
        drop: top-1 of the float model minus that, in points.
        kl: mean over pictures of KL(float || quantized), in nats.
    """

    top1: float
    drop: float
    kl: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """The result of `choose_protected`.

    Attributes:
        profile: its name.
        protect: names of the groups to keep in float.
        score: `Score` with those in float.
        max_drop: points of top-1.
        images: number of pictures that it was measured on.
        scores: {group: `Score` with that group alone in float}, the best first.
        steps: `Score` with nothing in float, with the first group of `scores`, with the first two, ...
        milliseconds: (with nothing in float, with `protect`) of the real files on one thread, see `cost`;
            None if not timed.
    """

    profile: str
    protect: list
    score: Score
    max_drop: float
    images: int
    scores: dict
    steps: list
    milliseconds: tuple | None

    @property
    def reached(self):
        """Whether no more than `max_drop` points are lost."""
        return _is_near(self.score, self.max_drop)


class GroupEvaluator:
    """Scores a quantization-aware model on a labelled sample, with any groups of its layers in float.

    The graph is traced once: whether each fake quantizer is on is an input of it, so that no combination
    needs a new model. The model itself does not change.

    Args:
        aware: a `QuantizeAware` model.
        data: labelled pictures in any form that `export.examples.labelled_images` takes.
        count, seed: so many of them, chosen by that.

    Raises:
        InputError: pictures of another shape, none; labels that are no class of the model.
    """

    def __init__(self, aware, data, count=SAMPLE, seed=0):
        self.aware = aware
        if not hasattr(aware, "image_size"):
            raise InputError(
                "what each part loses can be measured for models of images alone, not for a multimodal one: "
                "name the parts to keep in float, with protect or --protect."
            )
        images, labels, self._measure = _checked_sample(
            labelled_images(
                data, aware.image_size, channels=aware.signature()["image"]["shape"][2], part="choosing"
            ),
            aware,
        )
        chosen = sample(len(images), count, seed)
        self._images, self._labels = images[chosen], labels[chosen]
        self.groups = groups(aware)
        self._graph = tf.function(
            self._logits,
            input_signature=[
                tf.TensorSpec((None, *aware.signature()["image"]["shape"]), tf.float32),
                tf.TensorSpec((len(self.groups),), tf.bool),
            ],
            autograph=False,
        )
        self._float = self._answers(self.groups)
        self._float_top1 = self._top1(self._float)

    def __len__(self):
        return len(self._labels)

    def logits(self, protect=()):
        """float32 [N, num_classes] of the sample, the groups named in `protect` in float."""
        on = np.array([group not in protect for group in self.groups])
        batches = [self._images[i : i + BATCH] for i in range(0, len(self), BATCH)]
        return np.concatenate([self._graph(self.aware.prepare(b), on).numpy() for b in batches])

    def score(self, protect=()):
        """The `Score` with the groups named in `protect` in float."""
        answers = self._answers(protect)
        kl = divergence(self._float, answers, self.aware.activation).mean()
        top1 = self._top1(answers)
        return Score(top1, self._float_top1 - top1, max(0.0, float(kl)))

    def _answers(self, protect):
        return np.asarray(activate(self.logits(protect), self.aware.activation))

    def _top1(self, answers):
        return 100 * float(np.mean(decided(answers, self._measure) == self._labels))

    def _logits(self, images, on):
        quantizers = {
            key: functools.partial(_if_on, self.aware.quantizers[key], on[number])
            for number, keys in enumerate(self.groups.values())
            for key in keys
        }
        with _replaced(self.aware, quantizers):
            return self.aware(images, training=False)


def groups(aware):
    """{"block_0.mlp": ["block_0.mlp.expand.input", ...]} of all tensors that `aware` quantizes."""
    keys = {}
    for key in aware.kinds:
        parts = key.split(".")
        keys.setdefault(".".join(parts[: 2 if parts[0].startswith("block_") else 1]), []).append(key)
    return keys


def _if_on(quantizer, on, x):
    return tf.where(on, quantizer(x), x)


@contextlib.contextmanager
def _replaced(aware, quantizers):
    """Inside the block `aware.quantizers` is another dictionary; Keras, which tracks layers, is passed by."""
    old = aware.__dict__["quantizers"]
    aware.__dict__["quantizers"] = quantizers
    try:
        yield
    finally:
        aware.__dict__["quantizers"] = old


def _checked_sample(data, aware):
    """(images, labels, what is counted: see `export.scores`)."""
    images, labels = np.asarray(data[0]), np.asarray(data[1])
    shape = aware.signature()["image"]["shape"]
    if images.ndim != 4 or images.shape[1:] != shape or not len(images) or labels.shape[:1] != (len(images),):
        raise InputError(
            f"images {list(images.shape)} with labels {list(labels.shape)}: sensitivity is measured on "
            f"images [N, {', '.join(map(str, shape))}] with N > 0, and one label for each."
        )
    labels, measure = checked_truth(labels, len(images), "image", aware.num_classes, aware.activation)
    if measure == NUMBERS or aware.activation is None:
        raise InputError(
            "what each part loses is measured in right answers, and a model with activation=None gives plain "
            "numbers: name the parts to keep in float, with protect."
        )
    return images, labels, measure


def sensitivity(evaluator, progress=None):
    """{group: `Score` with that group alone in float}, lowest KL first.

    Args:
        evaluator: a `GroupEvaluator`.
        progress: called with (groups done, groups in all).
    """
    scores = {}
    for done, group in enumerate(evaluator.groups, start=1):
        scores[group] = evaluator.score([group])
        if progress:
            progress(done, len(evaluator.groups))
    return dict(sorted(scores.items(), key=lambda item: item[1].kl))


def protect_list(evaluator, scores, max_drop):
    """(groups to keep in float, their `Score`, the `Score`s on the way: `Choice.steps`).

    The groups of `scores` are protected one after the other, each step measured, until no more than
    `max_drop` points are lost; then each is left out again without which that still holds. At least one
    group stays quantized: a model without any is the float one. If that is not enough, the fewest groups
    that lose the least.
    """
    names, steps = list(scores), [evaluator.score()]
    while not _is_near(steps[-1], max_drop) and len(steps) < len(names):
        steps.append(evaluator.score(names[: len(steps)]))
    if not _is_near(steps[-1], max_drop):
        count = min(range(len(steps)), key=lambda i: (steps[i].drop, i))
        return names[:count], steps[count], steps
    protect, best = names[: len(steps) - 1], steps[-1]
    for group in protect[:-1]:  # the last one was needed
        fewer = [name for name in protect if name != group]
        if _is_near(score := evaluator.score(fewer), max_drop):
            protect, best = fewer, score
    return protect, best, steps


def _is_near(score, max_drop):
    return score.drop <= max_drop + 1e-9


def choose_protected(
    model,
    profile,
    calibration,
    data,
    max_drop,
    count=SAMPLE,
    seed=0,
    timed=True,
    progress=None,
):
    """Find the groups of layers to keep in float so that `profile` loses at most `max_drop` points of top-1.

    Args:
        model: the float `ViT`.
        profile: name of a quantized profile; of its post-training quantization.
        calibration: as in `export`; needed for static profiles alone.
        data: labelled held-out pictures, see `export.examples.labelled_images`.
        max_drop: points, 0 to 100.
        count, seed: so many of the pictures, chosen by that.
        timed: also convert both models and time the files.
        progress: called with (groups done, groups in all).

    Raises:
        InputError: a profile that cannot be protected, data that does not fit.
    """
    profile = profile_named(profile, quantized=True)
    check_drop(max_drop)
    if profile.activations == "full":
        raise InputError(f"no layer of {profile.name} can be protected: all of it is int8. Use int8_static.")
    model = in_float32(model)
    quantized = post_training(model, profile.name, calibration)
    evaluator = GroupEvaluator(quantized, data, checked_integer("count", count, 1), seed)
    scores = sensitivity(evaluator, progress)
    protect, best, steps = protect_list(evaluator, scores, max_drop)
    milliseconds = None
    if timed and protect:
        milliseconds = cost(quantized, post_training(model, profile.name, calibration, protect))
    return Choice(profile.name, protect, best, max_drop, len(evaluator), scores, steps, milliseconds)


def check_drop(max_drop):
    """Refuse a limit that is no number of points."""
    number = isinstance(max_drop, int | float) and not isinstance(max_drop, bool)
    if not number or not 0 <= max_drop <= 100:
        raise InputError(f"max_drop is a number of points of top-1, from 0 to 100, not {max_drop!r}.")


def cost(before, after, seconds=1.0):
    """Milliseconds of the .tflite files of both on one image: (p50, p50); None if one fails.

    The second is the first times the median ratio of the rounds in which they took turns: see `benchmark`.
    """
    with tempfile.TemporaryDirectory(prefix="keras_vit-cost-") as folder:
        files = []
        for name, quantized in (("before", before), ("after", after)):
            path = Path(folder, f"{name}.keras")
            quantized.save(path)
            files.append(path.with_suffix(".tflite"))
            convert(path, files[-1], quantized.profile)
        first, second = benchmark(files, threads=(1,), seconds=seconds)["models"]
    if first["error"] or second["error"]:
        return None
    return first["latency_ms_p50"], first["latency_ms_p50"] * second["ratio"]
