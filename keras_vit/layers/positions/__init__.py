"""Position encodings, by name: `positions_for("learned", grid, ...)`. `base.py` says how they are called."""

from typing import Any

import keras

from keras_vit.config import Size
from keras_vit.errors import one_of
from keras_vit.layers.positions.absolute import (
    CoordinatePositions,
    FactorisedPositions,
    LearnedPositions,
    OneHotPositions,
    SinCos2DPositions,
    SinusoidalPositions,
)
from keras_vit.layers.positions.base import NoPositions, PositionLayer, Positions
from keras_vit.layers.positions.relative import RelativePositions
from keras_vit.layers.positions.rotary import RotaryPositions

__all__ = [
    "CoordinatePositions",
    "FactorisedPositions",
    "LearnedPositions",
    "NoPositions",
    "OneHotPositions",
    "PositionLayer",
    "Positions",
    "RelativePositions",
    "RotaryPositions",
    "SinCos2DPositions",
    "SinusoidalPositions",
    "positions_for",
]

POSITION_LAYERS = {
    "learned": lambda grid, prefix, width, num_heads, **kw: LearnedPositions(grid, prefix, **kw),
    "sinusoidal": lambda grid, prefix, width, num_heads, **kw: SinusoidalPositions(grid, prefix, **kw),
    "sincos2d": lambda grid, prefix, width, num_heads, **kw: SinCos2DPositions(grid, prefix, **kw),
    "sincos2d_timm": lambda grid, prefix, width, num_heads, **kw: SinCos2DPositions(
        grid, prefix, "timm", **kw
    ),
    "factorised": lambda grid, prefix, width, num_heads, **kw: FactorisedPositions(grid, prefix, **kw),
    "coordinates": lambda grid, prefix, width, num_heads, **kw: CoordinatePositions(grid, prefix, **kw),
    "one_hot": lambda grid, prefix, width, num_heads, **kw: OneHotPositions(grid, prefix, **kw),
    "rotary2d": lambda grid, prefix, width, num_heads, **kw: RotaryPositions(width // num_heads, **kw),
    "relative": lambda grid, prefix, width, num_heads, **kw: RelativePositions(grid, num_heads, **kw),
    "none": lambda grid, prefix, width, num_heads, **kw: NoPositions(**kw),
}


def positions_for(
    name: str, /, grid: Size, prefix: int, width: int, num_heads: int, **kwargs: Any
) -> keras.layers.Layer:
    """The position layer that `ViTConfig.position` names.

    Args:
        name: a key of `POSITION_LAYERS`.
        grid: (rows, columns) of patches, or one integer for a sequence.
        prefix: number of leading tokens that are no patches.
        width, num_heads: of the encoder.
        **kwargs: what the layer takes besides (dtype, name, convention ...).
    """
    return POSITION_LAYERS[one_of("position", name, POSITION_LAYERS)](
        grid, prefix, width, num_heads, **kwargs
    )
