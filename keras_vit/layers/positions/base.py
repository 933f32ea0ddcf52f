"""Position encodings: what tells a token where it is.

Most kinds add a vector to each token; rotary and relative positions speak to the attention
instead (`for_attention`). All are called alike, `layer(tokens, grid=..., sizes=...)`:

- tokens [B, prefix + rows * columns, D], row by row, after `prefix` tokens that are no patches;
- `grid`, (rows, columns) of this call, where it is not the one that the layer was made for: one
  model serves several resolutions;
- `sizes` int [B, 2], each example's own (rows, columns) in the top left corner of `grid`: a padded
  batch of mixed sizes. An example gets there what it would get alone with `grid` = its own size,
  however large the canvas. What padded positions get is finite and of no meaning.
"""

from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Size, Tensor, integer, pair
from keras_vit.errors import InputError


def grid_of(value: Any) -> tuple[int, int]:
    """(rows, columns) from a pair, or (1, n) from one integer n: a sequence."""
    return pair((1, value) if type(value) is int else value, "grid")


class PositionLayer(keras.layers.Layer):
    """What all kinds share. By itself it leaves tokens [B, N, D] as they are, of any number."""

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        """Nothing, where a kind has no weights."""

    def call(self, tokens: Tensor, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        return tokens

    def for_attention(self, grid: Size, prefix: int = 0) -> dict:
        """Keyword arguments for the attention layers: {}, {"rotary": ...} or {"bias": ...}."""
        return {}

    def resized(self, new_grid: Size) -> list:
        """NumPy weights, in the order of `weights`, for the same layer made for `new_grid`."""
        return self.get_weights()

    def compute_output_shape(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> Shape:
        return tokens_shape


class Positions(PositionLayer):
    """The base of encodings that are added: tokens [B, prefix + rows * columns, D] -> the same shape.

    A kind defines `encode`; the tokens before the patches get zeros.

    Args:
        grid: (rows, columns), or one integer for a sequence.
        prefix: number of leading tokens that are no patches ([CLS], registers).

    Raises:
        InputError: tokens of another number or width than grid, prefix and `build` say.
    """

    def __init__(self, grid: Size, prefix: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid_of(grid)
        self.prefix = integer("prefix", prefix, at_least=0)

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        self.width = tokens_shape[-1]

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        """What is added to the patches: [1, rows * columns, D], or [B, ...] with `sizes`; float32."""
        raise NotImplementedError

    def call(self, tokens: Tensor, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        grid = self._grid_for(tokens, grid)
        return tokens + ops.cast(self._with_prefix(self.encode(grid, sizes)), self.compute_dtype)

    def _with_prefix(self, table):
        return ops.pad(table, ((0, 0), (self.prefix, 0), (0, 0))) if self.prefix else table

    def _grid_for(self, tokens, grid):
        rows, columns = grid = self.grid if grid is None else grid_of(grid)
        expected = (self.prefix + rows * columns, self.width)
        given = tuple(tokens.shape)
        known = len(given) == 3 and all(g in (None, e) for g, e in zip(given[1:], expected, strict=True))
        if not known:
            raise InputError(
                f"tokens of shape {list(given)} do not fit the grid {rows}x{columns} with {self.prefix} "
                f"leading tokens and width {self.width}, which takes [batch, {expected[0]}, {expected[1]}]: "
                "pass grid=(rows, columns) of these tokens."
            )
        return grid

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": list(self.grid), "prefix": self.prefix}


@keras.saving.register_keras_serializable("keras_vit")
class NoPositions(PositionLayer):
    """Leaves tokens as they are: without positions a Vision Transformer sees a bag of patches."""
