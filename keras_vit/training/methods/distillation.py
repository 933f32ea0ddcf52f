"""Distillation: a `ViT` that also learns from the answers of a trained one (Touvron et al. 2020, DeiT).

With the logits Z_s of the student and Z_t of the teacher, the label y, and the softmax psi (arXiv:2012.12877,
equations 1 to 3):

    soft:  (1 - w) CE(psi(Z_s), y) + w tau^2 KL(psi(Z_t / tau) || psi(Z_s / tau))
    hard:  (1 - w) CE(psi(Z_s), y) + w CE(psi(Z_s), argmax Z_t)                       w = 1/2 there

Of a model whose `activation` is a sigmoid, CE is the binary cross-entropy and KL that of each class's two
answers, both as means over the classes; argmax becomes the teacher's yes or no for each.

(The paper writes KL the other way round; its code computes this, as Hinton et al. 2015 do.) A student with
a distillation token has two heads: the class head learns from the label, the distillation head from the
teacher. Else the one head gets both. In use the answer is the mean of the two heads.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_vit.config import Tensor
from keras_vit.errors import InputError, one_of
from keras_vit.files import find_labels
from keras_vit.models import ViT
from keras_vit.models.activation import default_activation
from keras_vit.models.transfer import variables_by_name
from keras_vit.training.imports import load_start

DISTILLATIONS = ("hard", "soft")


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained `ViT` that a student learns from.

    Attributes:
        model: the `ViT`; it is never trained, and no part of the student.
        source: where it came from.
    """

    model: ViT
    source: str

    @property
    def digest(self):
        """SHA-256 of its weights, whatever file they were in."""
        digest = hashlib.sha256()
        for name, variable in variables_by_name(self.model).items():
            digest.update(f"{name}{tuple(variable.shape)}".encode())
            digest.update(ops.convert_to_numpy(variable).tobytes())
        return digest.hexdigest()

    def to_dict(self):
        """What a run's config.json notes."""
        return {"source": self.source, "weights": self.digest}


def load_teacher(path, labels):
    """The `Teacher` at `path`, a RUN, a model.keras or a checkpoint.

    Args:
        labels: the student's class names.

    Raises:
        InputError: no such model, or it knows other classes, or several of them at once.
    """
    model = load_start(path, option="--teacher")
    if model.num_classes != len(labels):
        raise InputError(
            f"the teacher {path} has {model.num_classes or 'no'} classes, and the data {len(labels)}: a "
            f"teacher must be trained on the same, e.g. `keras-vit train DATA --start {path} --out TEACHER`."
        )
    names = find_labels(path, model.num_classes)
    if names is not None and list(names) != list(labels):
        other = next(i for i, (a, b) in enumerate(zip(names, labels, strict=True)) if a != b)
        raise InputError(
            f"the teacher {path} has the class {names[other]!r} where the data has {labels[other]!r}: it "
            "must be trained on the same classes."
        )
    _check_activation(path, model.activation, default_activation(len(labels)))
    model.trainable = False
    return Teacher(model, str(Path(path)))


def _check_activation(teacher, activation, wanted):
    if activation != wanted:
        raise InputError(
            f"the teacher {teacher} answers with activation={activation!r} and the student with {wanted!r}: "
            "both must mean the same by their logits."
        )


class TeacherLoss:
    """The loss of a student, as `TrainingModel` takes it: that of the labels and that of a teacher's answers.

    Only training has the teacher's part: held-out losses are those of the labels. What is saved and resumed
    has the same variables as without a teacher.

    Args:
        student: a `ViT` with a head. With a distillation token it answers with both heads from now on.
        teacher: a `ViT` with as many classes; its own preprocessing and image size are respected.
        distillation: "hard" or "soft".
        weight: w above, in [0, 1].
        temperature: tau above, for "soft".

    Raises:
        InputError: an unknown distillation, or models whose `activation` differs.
    """

    def __init__(
        self, student: ViT, teacher: ViT, distillation: str, weight: float = 0.5, temperature: float = 3.0
    ) -> None:
        one_of("distillation", distillation, DISTILLATIONS)
        _check_activation(teacher.name, teacher.activation, student.activation)
        self.teacher, self.weight = teacher, weight
        self.distillation = Distillation(distillation, temperature, student.activation)
        self.convert = as_seen_by(teacher, student)
        self.has_two_heads = student.return_both_heads = student.config.distilled

    def __call__(self, label_loss: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        for_labels, for_teacher = (y_pred[:, 0], y_pred[:, 1]) if self.has_two_heads else (y_pred, y_pred)
        target = ops.stop_gradient(self.teacher(self.convert(x), training=False))
        loss = label_loss(x, y, for_labels, sample_weight)
        return (1 - self.weight) * loss + self.weight * self.distillation(
            target, for_teacher, sample_weight=sample_weight
        )

    def logits(self, y_pred: Tensor) -> Tensor:
        """The mean of the two heads, [B, num_classes]."""
        return ops.mean(y_pred, axis=1) if len(y_pred.shape) == 3 else y_pred


class Distillation(keras.losses.Loss):
    """How far the student's logits [B, num_classes] are from the teacher's.

    Args:
        distillation: "hard" or "soft", see above.
        temperature: of "soft".
        activation: of both: "softmax" or "sigmoid"; None for the mean squared difference of the numbers.
    """

    def __init__(
        self,
        distillation: str,
        temperature: float = 1.0,
        activation: str | None = "softmax",
        name: str = "distillation",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self.distillation, self.temperature, self.activation = distillation, temperature, activation

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The loss of each example, [B], from both models' logits."""
        if self.activation is None:
            return ops.mean(ops.square(teacher - student), axis=-1)
        if self.activation == "sigmoid":
            return self._of_each_class(teacher, student)
        if self.distillation == "hard":
            best = ops.argmax(teacher, axis=-1)
            return keras.losses.sparse_categorical_crossentropy(best, student, from_logits=True)
        log_p, log_q = (ops.log_softmax(logits / self.temperature) for logits in (teacher, student))
        return self.temperature**2 * ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)

    def _of_each_class(self, teacher, student):
        if self.distillation == "hard":
            yes = ops.cast(ops.greater(teacher, 0.0), student.dtype)
            return keras.losses.binary_crossentropy(yes, student, from_logits=True)
        teacher, student = teacher / self.temperature, student / self.temperature
        each = [
            ops.sigmoid(sign * teacher) * (ops.log_sigmoid(sign * teacher) - ops.log_sigmoid(sign * student))
            for sign in (1.0, -1.0)
        ]
        return self.temperature**2 * ops.mean(each[0] + each[1], axis=-1)


def as_seen_by(teacher, student):
    """A function from images as `student` takes them to the same as `teacher` takes them: size and scale.

    Scaled to cover the teacher's size and cropped in the centre, as `data.decoding.fit` does with files. A
    teacher of colours sees a grey student's pictures as grey ones.

    Raises:
        InputError: a teacher of other channels than a student that is not of grey pictures.
    """
    channels = student.config.channels
    if channels not in (1, teacher.config.channels):
        raise InputError(
            f"a teacher of {teacher.config.channels} channels cannot see pictures of {channels}: use "
            f"teacher.rebuilt(channels={channels})."
        )
    (height, width), (h, w) = teacher.image_size, student.image_size
    scale = max(height / h, width / w)
    size = max(height, round(h * scale)), max(width, round(w * scale))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2

    def converted(images):
        images = ops.cast(images, "float32")
        if student.include_preprocessing:
            pixels = images / 255.0
        else:
            pixels = images * _constant(student, "std") + _constant(student, "mean")
        if size != (h, w):
            pixels = tf.image.resize(pixels, size, "bilinear", antialias=True)
        pixels = pixels[:, top : top + height, left : left + width]
        if teacher.include_preprocessing:
            return pixels * 255.0
        return (pixels - _constant(teacher, "mean")) / _constant(teacher, "std")

    return converted


def _constant(model, name):
    return tf.constant(model.preprocessing[name], tf.float32)
