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

import dataclasses
import tempfile
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.calibration import checked_integer
from keras_vit.export.quantization.group_evaluator import SAMPLE, GroupEvaluator, Score
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.tflite.convert import convert
from keras_vit.export.tflite.fold import in_float32
from keras_vit.export.verification.benchmark import benchmark


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
