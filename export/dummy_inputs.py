"""Made-up raw inputs of a model: to compare it with a file, to warm a server up, or for want of data."""

import numpy as np

from keras_vit.config import PRESENT
from keras_vit.modalities.pixels import Pixels
from keras_vit.modalities.text import Text


def dummy_inputs(model, count=1, seed=0):
    """{name: array [count, ...]} for every input in `model.signature()`, by `seed`.

    Pixels have something to see at every scale, texts are full of known words, everything is present.
    """
    random = np.random.default_rng(seed)
    modalities = getattr(model, "modalities", {})
    made = {}
    for name, signature in model.signature().items():
        shape, modality = (count, *signature["shape"]), modalities.get(name)
        if name == PRESENT:
            made[name] = np.ones(shape, "float32")
        elif modality is None or isinstance(modality, Pixels):
            made[name] = _pictures(shape, random)
        elif signature["dtype"] == "int32":
            first = 2 if isinstance(modality, Text) else 0  # no padding, no unknown word
            last = getattr(modality, "size", None) or getattr(modality, "values", None) or 2
            made[name] = random.integers(first, last, shape).astype("int32")
        else:
            made[name] = np.clip(random.normal(0, 0.3, shape), -1, 1).astype("float32")
    return made


def _pictures(shape, random):
    """float32 [..., H, W, C], whole numbers in 0..255: coarse squares, fine squares and noise."""
    *_, height, width, channels = shape
    pictures = np.full(shape, 128.0)
    for cells in (2, 5, 16):
        coarse = random.uniform(-60, 60, (*shape[:-3], cells, cells, channels))
        rows, columns = (np.arange(size) * cells // size for size in (height, width))
        pictures += coarse[..., rows, :, :][..., columns, :]
    return np.clip(pictures + random.normal(0, 10, shape), 0, 255).round().astype("float32")
