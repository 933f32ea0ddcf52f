"""Pixels of any number of channels, to look at. NumPy alone: reports need it where Keras is not imported."""

import numpy as np


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels [..., C] to look at, [..., 3]: of more channels the first three, of fewer the first as grey."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
