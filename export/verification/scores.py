"""How right an answer is, and how near to another one: by what the model's activation says of its numbers.

    what the labels are                           decided              `top1` is the share of
    one number for each example                   the highest class    examples decided right
    0 or 1, of a model of one class               above 0.5            examples decided right
    0 or 1 for each class [N, num_classes], sigmoid   each above 0.5       all N x classes decided right
    numbers, of a model with activation=None      nothing              nothing: None

The second and the third are what `keras.metrics.BinaryAccuracy` counts, the first SparseCategoricalAccuracy.
"""

import numpy as np

from keras_vit.answers import THRESHOLD
from keras_vit.errors import InputError

TOP1, BINARY, SEVERAL, NUMBERS = "top-1", "accuracy", "accuracy of each label", "none"
FLOOR = 1e-9


def checked_truth(labels, count, thing, num_classes, activation):
    """(the labels as they are compared, which of the four measures above).

    Args:
        labels: integers [N] or [N, 1]; one-hot [N, num_classes] (of one class [N, 2]); for a sigmoid 0 or 1
            for each class [N, num_classes]; for activation=None any numbers [N] or [N, num_classes].
        count, thing: how many of what there are, for messages.

    Raises:
        InputError: none of these.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as image_dataset_from_directory has two classes
        labels = labels[:, 0]
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and (labels == np.round(labels)).all())
    wide = labels.ndim == 2
    if activation is None and (num_classes == 1 or wide or not whole):
        shape = (count,) if num_classes == 1 else (count, num_classes)
        if not count or labels.shape != shape or labels.dtype.kind not in "iubf":
            raise InputError(
                f"{count} {thing}s and labels {labels.dtype} {list(labels.shape)}: a model with "
                f"activation=None is compared with numbers {list(shape)}."
            )
        return labels.reshape(count, num_classes).astype("float64"), NUMBERS
    width = 2 if num_classes == 1 else num_classes
    fits = labels.shape in ((count,), (count, width)) and (whole or (wide and labels.dtype.kind == "f"))
    if not count or not fits:
        raise InputError(
            f"{count} {thing}s and labels {labels.dtype} {list(labels.shape)}: give at least one {thing}, "
            "and one integer label for each."
        )
    if wide and activation == "sigmoid" and num_classes > 1:
        if not np.isin(labels, (0, 1)).all():
            raise InputError("labels for each class must be 0 or 1, for a model with activation='sigmoid'.")
        return labels.astype(int), SEVERAL
    if wide:
        if not np.allclose(labels.sum(axis=1), 1, atol=1e-3):
            raise InputError(
                "some labels name no class or several, and the model, whose activation is 'softmax', answers "
                "with one of them: build it with activation='sigmoid', or give one label for each."
            )
        labels = labels.argmax(axis=1)
    if labels.min() < 0 or labels.max() >= width:
        raise InputError(
            f"the labels run from {labels.min():g} to {labels.max():g}, but the exported model knows {width} "
            f"classes, 0 to {width - 1}: verify it with data of the same classes."
        )
    return labels.astype(int), BINARY if num_classes == 1 else TOP1


def decided(answers, measure):
    """What answers [N, C] come down to: [N], or [N, C] for `SEVERAL`; None for `NUMBERS`."""
    if measure == TOP1:
        return answers.argmax(-1)
    if measure == NUMBERS:
        return None
    yes = (answers > THRESHOLD).astype(int)
    return yes[:, 0] if measure == BINARY else yes


def divergence(p, q, activation):
    """KL(p || q) of each example's answers [N, num_classes], in nats: [N]. None of logits.

    Of a sigmoid, whose classes are independent, the sum over them of KL between two coins. Probabilities
    count as at least 1e-9.
    """
    if activation is None:
        return None
    p, q = np.asarray(p, "float64"), np.asarray(q, "float64")
    one = _terms(p, q)
    return (one + _terms(1 - p, 1 - q) if activation == "sigmoid" else one).sum(axis=-1)


def _terms(p, q):
    p, q = np.maximum(p, FLOOR), np.maximum(q, FLOOR)
    return p * np.log(p / q)
