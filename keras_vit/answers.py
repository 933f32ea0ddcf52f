"""How the answers of a model are called and shown: the output's name, and the names of its classes.

    activation   output of every file          what it says
    "softmax"    probability [N, num_classes]  one class of several: each row sums to one
    "sigmoid"    probability [N, num_classes]  each class on its own; of one class, that label 1 is right
    None         logits [N, num_classes]       the numbers as the head gives them

A model of one class has two names, of the labels 0 and 1, and its files answer the probability of label 1.
"""

from collections.abc import Sequence

PROBABILITY, LOGITS = "probability", "logits"
THRESHOLD = 0.5  # above it the answer is yes, as in keras.metrics.BinaryAccuracy


def output_name(activation: str | None) -> str:
    """What a file calls its answer."""
    return LOGITS if activation is None else PROBABILITY


def default_labels(num_classes: int, output: str = PROBABILITY) -> list[str]:
    """Numbers as names: "0", "1", ..."""
    return [str(i) for i in range(2 if num_classes == 1 and output == PROBABILITY else num_classes)]


def labels_fit(count: int, num_classes: int | None, output: str = PROBABILITY) -> bool:
    """Whether `count` names can be those of `num_classes` classes: of one also two, of the labels 0 and 1."""
    return count == num_classes or (count == 2 and num_classes == 1 and output == PROBABILITY)


def both_names(labels: Sequence[str]) -> list[str]:
    """The names of the labels 0 and 1 of a model of one class; of "defect" alone "not defect" and that."""
    return list(labels) if len(labels) == 2 else [f"not {labels[0]}", labels[0]]


def ranked(row: Sequence[float], labels: Sequence[str], top: int | None = None) -> list[tuple[str, float]]:
    """[(name, value)] of one answer [num_classes], the highest first.

    Of the probability of one class with two names, (1 - it) stands beside it.
    """
    values = [float(value) for value in row]
    if len(values) == 1 and len(labels) == 2:
        values = [1 - values[0], values[0]]
    order = sorted(range(len(values)), key=lambda i: -values[i])[:top]
    return [(str(labels[i]), values[i]) for i in order]


def shown(value: float, output: str) -> str:
    """A probability as a percentage, a logit as a number."""
    return f"{value:7.2%}" if output == PROBABILITY else f"{value:9.4g}"
