"""What models and modalities share whose raw input is pixels: pictures and clips."""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Tensor
from keras_vit.errors import InputError, Notice
from keras_vit.mixin import Mixin
from keras_vit.modalities.values import concrete_values

SLACK = 3.0  # times the span of normalised pixels: so far beyond it no augmentation goes, and 0..255 does
LOOKED_AT = 32  # examples


class RangeCheck(Mixin):
    """Mixed into what takes pixels: says once if the first values that can be seen are on another scale.

    `include_preprocessing`: whether pixels 0..255 are taken, or (pixel / 255 - mean) / std.
    """

    include_preprocessing = False
    range_checked = False

    def check_range(self, images: Tensor, present: Tensor | None = None) -> None:
        """Look at the first batch, where it has values: not while a graph is traced, and never again.

        Args:
            images: [B, ..., C].
            present: [B], 0 for examples that do not count.
        """
        if self.range_checked:
            return
        values, present = concrete_values(images), None if present is None else concrete_values(present)
        if values is None or values.dtype.kind not in "buif":
            return
        self.range_checked = True
        if present is not None:
            values = values[np.reshape(present, len(values)) > 0.5]
        values = values[np.isfinite(values)]  # what pads a canvas may be NaN
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        found = f"{self.name}: the first batch runs from {low:.4g} to {high:.4g}"
        if self.include_preprocessing:
            if high <= SLACK and (low < 0 or (0 < high <= 1 and values.dtype.kind == "f")):
                warnings.warn(
                    f"{found}, but this model takes pixels 0..255 and normalises them itself "
                    "(include_preprocessing=True): leave out the normalisation before it.",
                    Notice,
                    stacklevel=3,
                )
            return
        least, most = limits(self.preprocessing)
        span = SLACK * (most - least)
        if low < least - span or high > most + span:
            pixels = ", or build it with include_preprocessing=True" if hasattr(self, "image_size") else ""
            warnings.warn(
                f"{found}, but it takes normalised images, {least:.4g} to {most:.4g}: give it "
                f"model.prepare(images){pixels if isinstance(self, keras.Model) else ''}.",
                Notice,
                stacklevel=3,
            )


class ChecksArrays(Mixin):
    """Mixed into a model with a method `look`: `fit`, `evaluate` and `predict` look at arrays, too."""

    def fit(self, x: Tensor | None = None, *arguments: Any, **options: Any) -> Any:
        self._check_arrays(x)
        return super().fit(x, *arguments, **options)

    def evaluate(self, x: Tensor | None = None, *arguments: Any, **options: Any) -> Any:
        self._check_arrays(x)
        return super().evaluate(x, *arguments, **options)

    def predict(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        self._check_arrays(x)
        return super().predict(x, *arguments, **options)

    def _check_arrays(self, x):
        parts = x if isinstance(x, dict) else {"image": x}
        if all(hasattr(part, "shape") and len(part.shape) for part in parts.values()):
            parts = {name: part[:LOOKED_AT] for name, part in parts.items()}
            self.check_range_of(parts if isinstance(x, dict) else parts["image"])


class Pixels(RangeCheck):
    """Mixed into a `Modality` with `channels`: raw pixels 0..255 become (pixel / 255 - mean) / std.

    The layer itself takes normalised pixels, as its weights expect them; `prepare` makes them so. Training,
    prediction and every export call it.

    `take_preprocessing` is called in the constructor with {"mean": [C], "std": [C]}, or None for 0.5 each.
    """

    input_quantizer = "image"

    def take_preprocessing(self, value: dict | None) -> None:
        self.preprocessing = checked_preprocessing(value, self.channels)

    def __call__(self, inputs, present=None, **options):
        if not self.range_checked and hasattr(inputs, "shape"):
            self.check_range(inputs, present)
        return super().__call__(inputs, present=present, **options)

    def prepare(self, raw: Tensor) -> Tensor:
        pixels = ops.cast(raw, "float32")
        mean, std = (self.preprocessing[key] for key in ("mean", "std"))
        scale = [1 / (255 * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        return pixels * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(shift, "float32")


def limits(preprocessing: dict) -> tuple[float, float]:
    """(lowest, highest) number that a normalised pixel can be."""
    pairs = list(zip(preprocessing["mean"], preprocessing["std"], strict=True))
    return min(-m / s for m, s in pairs), max((1 - m) / s for m, s in pairs)


def for_channels(preprocessing: dict, channels: int) -> dict:
    """`preprocessing` for pictures of another number of channels.

    For one channel the mean of the entries; for more the entries again and again, as `transfer` does with
    the kernels that they belong to.
    """
    if all(len(values) == channels for values in preprocessing.values()):
        return preprocessing
    if channels == 1:
        return {key: [sum(values) / len(values)] for key, values in preprocessing.items()}
    return {key: [values[i % len(values)] for i in range(channels)] for key, values in preprocessing.items()}


def checked_preprocessing(value: dict | None, channels: int) -> dict:
    """`value` as {"mean": [floats], "std": [floats]}; None stands for 0.5 in every channel.

    Raises:
        InputError: another form, another number of channels, a deviation that is not above 0.
    """
    if value is None:
        return {"mean": [0.5] * channels, "std": [0.5] * channels}
    try:
        mean, std = ([float(number) for number in value[key]] for key in ("mean", "std"))
    except (TypeError, ValueError, KeyError):
        mean = std = []
    usual = all(math.isfinite(x) for x in mean) and all(0 < x < math.inf for x in std)
    if len(mean) != channels or len(std) != channels or not usual:
        raise InputError(
            f"preprocessing must be {{'mean': [{channels} numbers], 'std': [{channels} numbers above 0]}}, "
            f"not {value!r}."
        )
    return {"mean": mean, "std": std}
