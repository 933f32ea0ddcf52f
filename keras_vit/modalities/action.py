"""`Action`: a track of vectors or of discrete choices, one token a step."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, integer, number
from keras_vit.errors import InputError, Notice
from keras_vit.layers.linear import LINEAR_ROLES, Linear
from keras_vit.layers.positions import LearnedPositions
from keras_vit.layers.quantization import Roles
from keras_vit.modalities.base import Modality, in_words
from keras_vit.modalities.text import TABLE_ROLES


@keras.saving.register_keras_serializable("keras_vit")
class Action(Modality):
    """Tracks [B, steps, features], or ids [B, steps], -> a token for each step, with learned positions.

    Args:
        steps: of a track.
        features: numbers in a step; or
        values: how many ids there are, 0 .. values - 1. Any other, such as -1, means that there is no step.
        padding: with `features`: a step all of whose numbers are this one is no step. None: all are.
        width: see `Modality`.
    """

    def __init__(
        self,
        steps: int,
        features: int | None = None,
        values: int | None = None,
        padding: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.steps = self.tokens = integer("steps", steps, 1)
        if (features is None) == (values is None):
            raise InputError(
                f"an action has steps of numbers, features=..., or of ids, values=...: give one of the two, "
                f"not features={features!r} and values={values!r}."
            )
        if padding is not None and values is not None:
            raise InputError(f"padding={padding!r} belongs to features: of ids, -1 is padding.")
        self.features = features if features is None else integer("features", features, 1)
        self.values = values if values is None else integer("values", values, 1)
        self.padding = padding if padding is None else number("padding", padding)
        self.blank_value = -1 if values else padding or 0
        self.roles = TABLE_ROLES if values else Roles(full={"positioned": "range"})

    def signature(self) -> dict:
        if self.values:
            return {"shape": (self.steps,), "dtype": "int32"}
        return {"shape": (self.steps, self.features), "dtype": "float32"}

    def build(self, input_shape: Shape) -> None:
        shared = {"dtype": self.dtype_policy}
        if self.values:
            self.table = self.add_weight(
                shape=(self.values, self.width),
                initializer=keras.initializers.RandomNormal(stddev=1.0),  # as large as other tokens
                name="table",
            )
        else:
            self.projection = Linear(
                self.width, kernel_initializer="lecun_normal", name="projection", **shared
            )
            self.projection.build((None, None, self.features))
        self.positions = LearnedPositions(self.steps, stddev=1.0, name="positions", **shared)
        self.positions.build((None, self.steps, self.width))
        if not self.values:
            # As in a `GridModality`: the bias becomes a part of the table of positions.
            token = LINEAR_ROLES.token
            full = {"kernel": "weight", "product": "range", "input": "range"}
            self.projection.roles = Roles(token, token, token, full)
            self.positions.roles = Roles()

    def tokenize(self, track: Tensor) -> tuple[Tensor, Tensor | None]:
        mask = None
        if self.values:
            mask = ops.logical_and(track >= 0, track < self.values)
            tokens = ops.take(self.fake_quantize("table", self.table), ops.where(mask, track, 0), axis=0)
        else:
            if self.padding is not None:
                mask = ops.any(ops.not_equal(track, ops.cast(self.padding, track.dtype)), axis=2)
            tokens = self.projection(track)
        return self.fake_quantize("positioned", self.positions(self.fake_quantize("tokens", tokens))), mask

    def encode(self, tracks: list) -> np.ndarray:
        """Tracks of any length each as one array, padded or cut at the end.

        Args:
            tracks: list of arrays [t, features], or [t] of ids.

        Warns:
            once, how many tracks were cut and how long the longest is.
        """
        signature = self.signature()
        inner, tracks = signature["shape"][1:], [np.asarray(track) for track in tracks]
        tracks = [track if track.size else np.zeros((0, *inner), signature["dtype"]) for track in tracks]
        for track in tracks:
            if track.size and (track.ndim != 1 + len(inner) or track.shape[1:] != inner):
                expected = ", ".join(["steps", *map(str, inner)])
                raise InputError(f"{self._title} takes tracks [{expected}], not {list(track.shape)}.")
            if self.values and track.size and (track.dtype.kind not in "iu" or track.max() >= self.values):
                raise InputError(
                    f"{self._title} takes integers from 0 to {self.values - 1}, or -1 for no step, not "
                    f"{track.dtype} up to {track.max()}."
                )
            if not np.isfinite(track).all():
                raise InputError(
                    f"{self._title} was given NaN or infinity: clean the data or leave steps out."
                )
            if len(track) < self.steps and not self.values and self.padding is None:
                raise InputError(
                    f"a track has {len(track)} of {self.steps} steps, and nothing says what stands for none: "
                    "make the Action with padding=0.0, or another number."
                )
        long = [len(track) for track in tracks if len(track) > self.steps]
        if long:
            warnings.warn(
                f"{in_words(len(long), 'track')} cut to {self.steps} steps, which is what {self._title} "
                f"takes: the longest has {max(long)}.",
                Notice,
                stacklevel=2,
            )
        padded = self.blank(len(tracks))
        for row, track in zip(padded, tracks, strict=True):
            row[: len(track)] = track[: self.steps]
        return padded

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "steps": self.steps,
            "features": self.features,
            "values": self.values,
            "padding": self.padding,
        }
