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

from keras_vit.config import PRESENT
from keras_vit.data.pixel_range import pixels_problem
from keras_vit.errors import InputError, one_of

PERCENTILE = 99.99
IMAGES = 256  # from which ranges are set, unless told otherwise


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Which pictures ranges are set from, and how.

    It can stand wherever pictures for a calibration can: `quantize_aware(model, "int8_static",
    Calibration("photos", images=1000, seed=3))`.

    Attributes:
        data: pictures in any form that `export.examples.calibration_images` takes.
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


def checked_calibration(inputs, model, method):
    """({name: array [N, ...]}, what to note about them).

    Args:
        inputs: raw ones, see `model.signature()`; "present" may be missing.
        model: the model that they are for.

    Raises:
        InputError: inputs of another shape or name, none, NaN or infinity, no pixels; an unknown method.
    """
    one_of("calibration method", method, METHODS)
    inputs = {name: np.asarray(x) for name, x in inputs.items()}
    signature = model.signature()
    given = {name: s for name, s in signature.items() if name != PRESENT or name in inputs}
    if set(inputs) != set(given):
        raise InputError(
            f"calibration needs examples of {', '.join(signature)}, not of {', '.join(inputs) or 'nothing'}."
        )
    count = len(next(iter(inputs.values()))) if next(iter(inputs.values())).ndim else 0
    for name, x in inputs.items():
        what = "images" if name == "image" else f"inputs {name!r}"
        shape = given[name]["shape"]
        if x.shape[1:] != tuple(shape) or not x.ndim or len(x) != count or not count:
            raise InputError(
                f"calibration {what} must have shape [N, {', '.join(map(str, shape))}] with "
                f"N > 0, not {list(x.shape)}."
            )
        in_pixels = hasattr(getattr(model, "modalities", {}).get(name, model), "preprocessing")
        wanted = "numbers in 0..255" if in_pixels else "numbers"
        if x.dtype.kind not in "buif":
            raise InputError(f"calibration {what} must be {wanted}, not {x.dtype}.")
        if not np.isfinite(x).all():
            raise InputError(f"calibration {what} contain NaN or infinity: they must be {wanted}.")
        if in_pixels:
            if problem := pixels_problem(x):
                raise InputError(f"calibration {what} {problem}.")
            inputs[name] = np.clip(x, 0, 255) if x.dtype.kind == "f" else x
    found = hashlib.sha256()
    for x in inputs.values():
        found.update(np.ascontiguousarray(x).tobytes())
    return inputs, {"images": count, "sha256": found.hexdigest(), "method": method}
