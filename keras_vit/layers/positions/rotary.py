"""Rotary positions: queries and keys are rotated by angles of their row and column."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Size, Tensor, integer, positive
from keras_vit.errors import InputError
from keras_vit.layers.positions.base import PositionLayer, grid_of


@keras.saving.register_keras_serializable("keras_vit")
class RotaryPositions(PositionLayer):
    """Axial rotary positions: queries and keys are turned by angles of their row and column.

    Heo et al. 2024 (arXiv:2403.13298, axial frequencies): frequencies base^(-t / (d / 4)) for
    t = 0 .. d / 4 - 1. The first half of a head's d channels turns by the row, the second by the
    column (the paper alternates them, which is the same up to the order of channels). Positions are
    absolute integers, so q . k depends on offsets only. No weights; tokens stay as they are.

    Args:
        head_width: d, channels of one head; a multiple of 4.
        base: 100 in the paper; fewer positions than in a text, so faster angles.
    """

    def __init__(self, head_width: int, base: float = 100.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if integer("head_width", head_width, at_least=1) % 4:
            raise InputError(
                f"rotary2d turns channels in pairs along two axes: a head's width must be a multiple of 4, "
                f"not {head_width}. Change width or heads."
            )
        self.head_width = head_width
        self.base = positive("base", base)

    def for_attention(self, grid: Size, prefix: int = 0) -> dict:
        """{"rotary": (cos, sin)}, NumPy float32 [prefix + rows * columns, head_width], for `rotate`.

        The `prefix` leading tokens are not turned: cos 1, sin 0.
        """
        rows, columns = grid_of(grid)
        quarter = self.head_width // 4
        frequencies = float(self.base) ** (-np.arange(quarter) / quarter)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
        angles = np.concatenate([y, y, x, x], axis=-1)
        angles = np.concatenate([np.zeros((prefix, self.head_width)), angles])
        return {"rotary": (np.cos(angles).astype("float32"), np.sin(angles).astype("float32"))}

    def get_config(self) -> dict:
        return {**super().get_config(), "head_width": self.head_width, "base": self.base}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns queries or keys x [B, num_heads, N, d] by cos, sin [N, d] or [B, N, d]; float32 inside.

    In the rotate-half form, inside each half of d: channel j and channel j + d / 4 are one pair,

        x_j cos - x_(j + d/4) sin,   x_(j + d/4) cos + x_j sin
    """
    dtype = x.dtype
    x = ops.cast(x, "float32")
    if len(cos.shape) == 3:
        cos, sin = ops.expand_dims(cos, 1), ops.expand_dims(sin, 1)
    a, b, c, d = ops.split(x, 4, axis=-1)
    return ops.cast(x * cos + ops.concatenate([-b, a, -d, c], axis=-1) * sin, dtype)
