"""From what was seen in a calibration pass to the range of a tensor.

Each method makes (low, high) of the values of one batch, and then one range of all batches:

- "mean": the mean over batches of each batch's extremes; one odd picture moves it little;
- "minmax": the extremes of everything seen; nothing is ever clipped;
- "percentile": the mean over batches of the 0.01 and 99.99 percentiles: clips the rarest values, for
  finer steps in the others.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from keras_vit.errors import InputError, one_of

PERCENTILE = 99.99
IMAGES = 256  # from which ranges are set, unless told otherwise


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Which pictures ranges are set from, and how.

    It can stand wherever pictures for a calibration can: `quantize_aware(model, "int8_static",
    Calibration("photos", images=1000, seed=3))`.

    Attributes:
        data: pictures in any form that `export.inputs.calibration_images` takes.
        images: how many of them; all, if there are fewer.
        seed: which ones.
        method: "mean", "minmax" or "percentile".
    """

    data: Any
    images: int = IMAGES
    seed: int = 0
    method: str = "mean"

    def __post_init__(self):
        for name, least in (("images", 1), ("seed", 0)):
            checked_integer(f"calibration {name}", getattr(self, name), least)
        one_of("calibration method", self.method, METHODS)


def checked_integer(what, value, least):
    """`value`; raises InputError unless it is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{what} must be an integer from {least} on, not {value!r}.")
    return int(value)


def _extremes(values):
    return float(values.min()), float(values.max())


def _percentiles(values):
    low, high = np.percentile(values, [100 - PERCENTILE, PERCENTILE])
    return float(low), float(high)


METHODS = {"mean": _extremes, "minmax": _extremes, "percentile": _percentiles}


def observed_range(ranges, method):
    """One (low, high) from those of all batches."""
    low, high = np.transpose(ranges)
    return (low.min(), high.max()) if method == "minmax" else (low.mean(), high.mean())


def checked_calibration(images, image_size, method):
    """(images as an array [N, H, W, 3], what to note about them).

    Raises:
        InputError: images of another shape, none, NaN or infinity, no pixels; an unknown method.
    """
    one_of("calibration method", method, METHODS)
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != (*image_size, 3) or not len(images):
        raise InputError(
            f"calibration images must have shape [N, {image_size[0]}, {image_size[1]}, 3] with "
            f"N > 0, not {list(images.shape)}."
        )
    if images.dtype.kind not in "buif":
        raise InputError(f"calibration images must be numbers in 0..255, not {images.dtype}.")
    if not np.isfinite(images).all():
        raise InputError("calibration images contain NaN or infinity: values must be in 0..255.")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255 or (images.dtype.kind == "f" and 0 < high <= 1):
        raise InputError(
            f"calibration images run from {low:.4g} to {high:.4g}, but pixels run over 0..255: leave out "
            "their normalisation, it is inside the model."
        )
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    return images, {"images": len(images), "sha256": digest, "method": method}
