"""What the scenarios with handwritten digits share: the digits, split once, and examples made from them."""

from collections.abc import Iterable

import numpy as np

from keras_vit.config import integer
from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.data.layout import digest
from keras_vit.modalities import Modality

HELD_OUT = 3  # one digit of so many is for testing only


def handwritten(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's 1,797 digits (Alpaydin and Kaynak 1998), of which a third is held out, class by class.

    Returns:
        ((pictures, labels) for training, the same for testing): float32 [N, 8, 8] from 0 (paper) to 1 (ink),
        and int32 [N].
    """
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    pictures, labels = (bunch.images / 16).astype("float32"), bunch.target.astype("int32")
    order = np.random.default_rng(integer("seed", seed, 0)).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    held_out = np.arange(len(order)) % HELD_OUT == 0
    train, test = order[~held_out], order[held_out]
    return (pictures[train], labels[train]), (pictures[test], labels[test])


def drawn(labels: np.ndarray, num_classes: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `labels` for `count` examples, each class equally often, in random order: int [count]."""
    wanted = rng.permutation(np.arange(count) % num_classes)
    rows = np.empty(count, int)
    for k in range(num_classes):
        places, known = np.flatnonzero(wanted == k), np.flatnonzero(labels == k)
        # All of them equally often, before one comes again.
        rows[places] = np.resize(rng.permutation(known), len(places))
    return rows


def grey(pictures: np.ndarray) -> np.ndarray:
    """Brightness float [..., H, W], 0 to 1 and cut there, as pixels uint8 [..., H, W, 3]."""
    pixels = np.rint(255 * np.clip(pictures, 0, 1)).astype("uint8")
    return np.repeat(pixels[..., np.newaxis], 3, axis=-1)


def assembled(
    train: Examples, test: Examples, labels: Iterable[str], modalities: dict[str, Modality], source: str
) -> MultimodalData:
    """`MultimodalData` of two `Examples`, with the fingerprint of what they hold."""
    parts: list[str | bytes] = [source, *labels]
    for examples in (train, test):
        for name, values in sorted(examples.inputs.items()):
            parts += [name, np.ascontiguousarray(values).tobytes()]
        parts.append(examples.labels.tobytes())
    return MultimodalData(train, test, list(labels), modalities, source, digest(parts))
