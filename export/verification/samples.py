"""Which images a report shows: first some that the files of an export answer differently."""

import numpy as np

from keras_vit.export.verification.scores import NUMBERS, SEVERAL, TOP1, decided

IMAGES, DISPUTED = 12, 4  # in all, and at most so many that are answered differently


def disputed_samples(
    chosen: np.ndarray, truth: np.ndarray, answers: dict[str, np.ndarray], labels: list[str], measure: str
) -> list[dict]:
    """A few images with every artifact's answer: some that they answer differently, then of many classes.

    Args:
        chosen: the index of each image in the data, int [N].
        truth: the right answers, as in `scores.checked_truth`.
        answers: {artifact: float32 [N, num_classes]}.
        labels: class names.
        measure: what is counted, see `scores`.

    Returns:
        A list of {"index", "label", "answers": {artifact: {"label", "probability"}}}.
    """
    if not answers or measure == NUMBERS:
        return []
    top = np.stack([decided(answer, measure) for answer in answers.values()])
    differs = (top != top[0]).any(axis=0)
    classes = truth
    if measure == SEVERAL:
        differs = differs.any(axis=1)
        classes = np.unique(truth, axis=0, return_inverse=True)[1].reshape(-1)
    picked = [int(i) for i in np.flatnonzero(differs)[:DISPUTED]]
    present = np.unique(classes)
    spread = present[np.linspace(0, len(present) - 1, min(len(present), IMAGES)).astype(int)]
    waiting = [[int(i) for i in np.flatnonzero(classes == c) if i not in picked] for c in spread]
    while len(picked) < IMAGES and any(waiting):
        picked += [images.pop(0) for images in waiting if images][: IMAGES - len(picked)]
    return [
        {
            "index": int(chosen[i]),
            "label": _named(truth[i], labels),
            "answers": {
                name: {
                    "label": _named(top[number][i], labels),
                    "probability": _probability(answer[i], top[number][i], measure),
                }
                for number, (name, answer) in enumerate(answers.items())
            },
        }
        for i in picked
    ]


def _named(decision, names):
    """A class by its name; where each class is decided on its own, the names of those that are there."""
    if np.ndim(decision) == 0:
        return names[decision]
    return ", ".join(names[i] for i in np.flatnonzero(decision)) or "none"


def _probability(answer, decision, measure):
    """The probability of the decision; of several decisions that of the least certain one."""
    if measure == TOP1:
        return float(answer.max())
    return float(np.where(decision, answer, 1 - answer).min())
