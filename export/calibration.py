"""From what was seen in a calibration pass to the range of a tensor.

Each method makes (low, high) of the values of one batch, and then one range of all batches:

- "mean": the mean over batches of each batch's extremes; one odd picture moves it little;
- "minmax": the extremes of everything seen; nothing is ever clipped;
- "percentile": the mean over batches of the 0.01 and 99.99 percentiles: clips the rarest values, for
  finer steps in the others.
"""

import hashlib

import numpy as np

from keras_vit.errors import InputError, one_of

PERCENTILE = 99.99


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
        InputError: images of another shape, none, NaN or infinity; an unknown method.
    """
    one_of("calibration method", method, METHODS)
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != (*image_size, 3) or not len(images):
        raise InputError(
            f"calibration images must have shape [N, {image_size[0]}, {image_size[1]}, 3] with "
            f"N > 0, not {list(images.shape)}."
        )
    if not np.isfinite(images).all():
        raise InputError("calibration images contain NaN or infinity: values must be in 0..255.")
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    return images, {"images": len(images), "sha256": digest, "method": method}
