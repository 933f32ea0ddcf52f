"""`GridModality`: what the modalities share that cut their input into a grid of pieces."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from keras_vit.config import POSITIONS, Shape, Tensor
from keras_vit.errors import InputError, one_of
from keras_vit.layers.linear import ACCURATE_ROLES
from keras_vit.layers.patches import Tokenizer
from keras_vit.layers.positions import positions_for
from keras_vit.layers.quantization import Roles
from keras_vit.modalities.base import Modality

# The others speak to the attention of one grid, and here many grids share one attention.
ADDED_POSITIONS = tuple(kind for kind in POSITIONS if kind not in ("rotary2d", "relative"))


class GridModality(Modality):
    """Pieces of a grid, each projected to a token, plus what tells where they were.

    A kind defines `tokenizer(width)`, the layer that cuts, and calls `lay_out` in its constructor.

    Args:
        position: "learned", "sinusoidal", "sincos2d", "sincos2d_timm", "factorised", "coordinates",
            "one_hot" or "none".
        width: see `Modality`.
    """

    input_quantizer = "range"  # of what is cut into pieces, see `layers.quantization`

    def __init__(self, position: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.position = one_of("position of a modality", position, ADDED_POSITIONS)
        # Without positions the output of the projection is what enters the trunk.
        self.roles = Roles() if position == "none" else Roles(full={"positioned": "range"})

    def tokenizer(self, width: int, **kwargs: Any) -> keras.layers.Layer:
        """The layer from raw input to tokens [B, N, width]."""
        raise NotImplementedError

    def lay_out(self, *size: Any) -> None:
        """Take note of the grid of pieces in an input of `size`; InputError if they do not fill it."""
        self.grid = self.tokenizer(1).grid(*size)
        self.tokens = math.prod(self.grid)

    def build(self, input_shape: Shape) -> None:
        shared = {"dtype": self.dtype_policy}
        self.pieces = self.tokenizer(self.width, name="pieces", **shared)
        # Of a video the rows of the grid are times, and its columns places.
        grid = (self.grid[0], math.prod(self.grid[1:]))
        self.positions = positions_for(
            self.position, grid, prefix=0, width=self.width, num_heads=1, name="positions", **shared
        )
        self.pieces.build(self.pieces_shape(input_shape))
        self.positions.build((None, self.tokens, self.width))
        if isinstance(self.pieces, Tokenizer):
            self._declare_roles()

    def _declare_roles(self):
        # Where a constant is added to an output, the converter adds the bias to that: the sum is no tensor.
        output = "output" if self.position == "none" else "product"
        full = {"kernel": "weight", output: "range", "input": self.input_quantizer}
        self.pieces.declare(dataclasses.replace(ACCURATE_ROLES, full=full))
        if hasattr(self.pieces, "projection"):
            # The file's table of positions has the projection's bias in it, and is rounded with that.
            self.positions.roles = Roles()

    def pieces_shape(self, input_shape: Shape) -> Shape:
        """The shape of what is cut, given that of the raw input."""
        return input_shape

    def tokenize(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens = self.fake_quantize("tokens", self.pieces(inputs))
        return self.fake_quantize("positioned", self.positions(tokens)), None

    def encode(self, examples: Any) -> np.ndarray:
        return self._finite(super().encode(examples))

    def _finite(self, array):
        if not np.isfinite(array).all():
            raise InputError(
                f"{self._title} was given NaN or infinity: clean the data, or mark it as absent."
            )
        return array

    def get_config(self) -> dict:
        return {**super().get_config(), "position": self.position}
