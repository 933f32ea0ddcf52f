"""Relative positions: a learned bias on the attention scores for each offset between two patches."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Size, integer
from keras_vit.layers.positions.base import PositionLayer, grid_of
from keras_vit.layers.positions.resize import resize_grid
from keras_vit.old_names import Renamed


@keras.saving.register_keras_serializable("keras_vit")
class RelativePositions(Renamed, PositionLayer):
    """A learned bias on the attention scores for each offset between two patches.

    softmax(Q K^T / sqrt(d) + B), B[h, i, j] = table[row_i - row_j, column_i - column_j, h]: Liu et al.
    2021 (Swin, arXiv:2103.14030, equation 4), here over the whole image and shared by all blocks as in
    T5. One weight, `table` [2 rows - 1, 2 columns - 1, num_heads], zeros at first, offset 0 in its middle.
    Offsets beyond the table take its edge: padding changes nothing. Tokens stay as they are.

    Args:
        grid: (rows, columns), or one integer for a sequence.
        num_heads: number of attention heads.
    """

    def __init__(self, grid: Size, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid_of(grid)
        self.num_heads = integer("num_heads", num_heads, at_least=1)

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        rows, columns = self.grid
        self.table = self.add_weight(
            shape=(2 * rows - 1, 2 * columns - 1, self.num_heads),
            initializer="zeros",
            name="table",
            autocast=False,  # the scores are float32
        )

    def for_attention(self, grid: Size, prefix: int = 0) -> dict:
        """{"bias": float32 [num_heads, prefix + N, prefix + N]}; 0 where one of the two is no patch."""
        rows, columns = grid_of(grid)
        indices = []
        for own, position in zip(self.grid, np.mgrid[:rows, :columns].reshape(2, -1), strict=True):
            offset = position[:, np.newaxis] - position  # of the query from the key
            indices.append(np.clip(offset, 1 - own, own - 1) + own - 1)
        index = (indices[0] * (2 * self.grid[1] - 1) + indices[1]).astype("int32")
        table = ops.reshape(ops.cast(self.table, "float32"), (-1, self.num_heads))
        bias = ops.take(ops.transpose(table), index, axis=1)
        if prefix:
            bias = ops.pad(bias, ((0, 0), (prefix, 0), (prefix, 0)))
        return {"bias": bias}

    def resized(self, new_grid: Size) -> list:
        rows, columns = grid_of(new_grid)
        return [resize_grid(self.table, (2 * rows - 1, 2 * columns - 1)).astype("float32")]

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": list(self.grid), "num_heads": self.num_heads}
