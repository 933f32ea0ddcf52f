"""`GroupEvaluator`: how far a quantized model is from the float one, with some groups of layers in float."""

import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from keras_vit.errors import InputError
from keras_vit.export.examples import labelled_images, sample
from keras_vit.export.verification.scores import NUMBERS, checked_truth, decided, divergence
from keras_vit.models.activation import activate

SAMPLE = 512  # held-out pictures
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Score:
    """How far a quantized model is from the float one.

    Attributes:
        top1: share of right answers, in percent; of a sigmoid see `verification.scores`.
        drop: top-1 of the float model minus that, in points.
        kl: mean over pictures of KL(float || quantized), in nats.
    """

    top1: float
    drop: float
    kl: float


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
    for key in aware.spec:
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
    """(images, labels, what is counted: see `verification.scores`)."""
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
