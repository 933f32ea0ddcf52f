"""Positions that are added to the tokens: learned, sines and cosines, coordinates, one-hot."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Size, Tensor, positive
from keras_vit.errors import InputError, one_of
from keras_vit.layers.positions.base import Positions, grid_of
from keras_vit.layers.positions.resize import resize_matrix, resize_positions
from keras_vit.layers.quantization import Quantizable, Roles


def _by_size(function, length, sizes, axis):
    """`function(length)`, NumPy [length, ...], as a constant [1, length, ...]; or each example's own.

    With `sizes` [B, 2], example b gets function(sizes[b, axis]), zeros below it: [B, length, ...].
    The values are the same either way, for they come from the same NumPy function.
    """
    if sizes is None:
        return ops.convert_to_tensor(np.asarray(function(length), "float32")[np.newaxis])
    whole = np.asarray(function(length), "float32")
    stack = np.zeros((length + 1, *whole.shape), "float32")
    for size in range(1, length + 1):
        stack[size, :size] = function(size)
    return ops.take(ops.convert_to_tensor(stack), _column(sizes, axis), axis=0)


def _column(sizes, axis):
    if len(sizes.shape) != 2 or sizes.shape[1] != 2:
        raise InputError(f"sizes must have the shape [batch, 2], (rows, columns), not {list(sizes.shape)}.")
    return ops.cast(sizes[:, axis], "int32")


def _sum_of_axes(rows, columns):
    """[B, R, D] and [B, C, D] -> [B, R * C, D]: at (r, c) the sum of rows[r] and columns[c]."""
    r, c, width = rows.shape[1], columns.shape[1], columns.shape[2]
    return ops.reshape(ops.expand_dims(rows, 2) + ops.expand_dims(columns, 1), (-1, r * c, width))


@keras.saving.register_keras_serializable("keras_vit")
class LearnedPositions(Quantizable, Positions):
    """Adds one learned vector to each token (Dosovitskiy et al. 2020, equation 1).

    One weight, `table` [1, prefix + rows * columns, D], from normal(0, `stddev`). At another grid the
    table is resized in the graph, antialiased bicubic, in float32; its first `prefix` rows stay.
    Its role for quantization is "table", where that is added as it is.

    Args:
        grid, prefix: see `Positions`.
        stddev: of the initial vectors: 0.02 for patches, as in every ViT. As large as the tokens where their
            order tells examples apart, as in texts: from 0.02 it is learned late or never.
    """

    roles = Roles(full={"table": "constant"})

    def __init__(self, grid: Size, prefix: int = 0, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(grid=grid, prefix=prefix, **kwargs)
        self.stddev = positive("stddev", stddev)

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        self.table = self.add_weight(
            shape=(1, self.prefix + self.grid[0] * self.grid[1], self.width),
            initializer=keras.initializers.RandomNormal(stddev=self.stddev),
            name="table",
            autocast=False,  # a table that is resized is resized in float32
        )

    def call(self, tokens: Tensor, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        if sizes is None and self._grid_for(tokens, grid) == self.grid:
            # One ADD of a constant: this is what runs on a phone.
            return tokens + ops.cast(self.fake_quantize("table", self.table), self.compute_dtype)
        return super().call(tokens, grid, sizes)

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        (rows, columns), (h, w) = self.grid if grid is None else grid_of(grid), self.grid
        table = ops.cast(self.table, "float32")[:, self.prefix :]
        if sizes is None and (rows, columns) == self.grid:
            return table
        to_rows = _by_size(functools.partial(resize_matrix, h), rows, sizes, 0)  # [1 or B, rows, h]
        to_columns = _by_size(functools.partial(resize_matrix, w), columns, sizes, 1)
        x = ops.matmul(to_rows, ops.reshape(table, (h, w * self.width)))
        x = ops.matmul(ops.expand_dims(to_columns, 1), ops.reshape(x, (-1, rows, w, self.width)))
        return ops.reshape(x, (-1, rows * columns, self.width))

    def _with_prefix(self, table):
        kept = ops.cast(self.table, "float32")[:, : self.prefix]
        return ops.concatenate([kept + ops.zeros_like(table[:, :1]), table], axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "stddev": self.stddev}

    def resized(self, new_grid: Size) -> list:
        return [resize_positions(self.table, self.grid, grid_of(new_grid), self.prefix)]


@keras.saving.register_keras_serializable("keras_vit")
class SinusoidalPositions(Positions):
    """Adds the sines and cosines of the token's index (Vaswani et al. 2017, section 3.5).

        PE[p, 2 i] = sin(p / 10000^(2 i / D));  PE[p, 2 i + 1] = cos(p / 10000^(2 i / D))

    Interleaved as in the paper: sin, cos, sin, cos. p = row * columns + column, counted in the
    example's own grid. No weights; D must be even.
    """

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        _check_multiple("sinusoidal", self.width, 2)

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        rows, columns = self.grid if grid is None else grid_of(grid)
        frequencies = 10000.0 ** (-np.arange(0, self.width, 2) / self.width)
        angles = np.arange(rows * columns)[:, np.newaxis] * frequencies
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, self.width)
        table = ops.convert_to_tensor(table.astype("float32"))
        if sizes is None:
            return ops.expand_dims(table, 0)
        row, column = np.divmod(np.arange(rows * columns, dtype="int32"), np.int32(columns))
        own_columns = ops.expand_dims(_column(sizes, 1), 1)
        return ops.take(table, own_columns * row + column, axis=0)


CONVENTIONS = {
    # what i is divided by, and the coordinate of each half of the channels: 0 is y, 1 is x
    "big_vision": (lambda n: max(n - 1, 1), (1, 0)),
    "mae": (lambda n: n, (1, 0)),
    "timm": (lambda n: n, (0, 1)),
}


@keras.saving.register_keras_serializable("keras_vit")
class SinCos2DPositions(Positions):
    """Adds the sines and cosines of row and column; two published encodings carry this name.

    With n = D / 4 and i = 0 .. n - 1, a coordinate p has the angles p / 10000^omega_i:

        convention     omega_i      channels, n each              published in
        "big_vision"   i / (n - 1)  sin x, cos x, sin y, cos y    google-research/big_vision, models/vit.py
        "mae"          i / n        sin x, cos x, sin y, cos y    facebookresearch/mae, util/pos_embed.py
        "timm"         i / n        sin y, cos y, sin x, cos x    timm, build_sincos2d_pos_embed with
                                                                  interleave_sin_cos=True

    y is the row and x the column. In mae's code the first half is named emb_h and holds x all the
    same. timm's default, interleave_sin_cos=False, is a third order (sin y, sin x, cos y, cos x).
    No weights; D must be a multiple of 4.

    Args:
        grid, prefix: see `Positions`.
        convention: "big_vision", "mae" or "timm".
    """

    def __init__(self, grid: Size, prefix: int = 0, convention: str = "big_vision", **kwargs: Any) -> None:
        super().__init__(grid, prefix, **kwargs)
        self.convention = one_of("convention", convention, CONVENTIONS)

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        _check_multiple("sincos2d", self.width, 4)

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        rows, columns = self.grid if grid is None else grid_of(grid)
        divisor, order = CONVENTIONS[self.convention]
        n = self.width // 4
        frequencies = 10000.0 ** (-np.arange(n) / divisor(n))
        coordinates = np.mgrid[:rows, :columns].reshape(2, -1, 1)
        halves = [f(coordinates[axis] * frequencies) for axis in order for f in (np.sin, np.cos)]
        return ops.convert_to_tensor(np.concatenate(halves, axis=-1)[np.newaxis].astype("float32"))

    def get_config(self) -> dict:
        return {**super().get_config(), "convention": self.convention}


@keras.saving.register_keras_serializable("keras_vit")
class FactorisedPositions(Positions):
    """Adds a learned vector of the row and one of the column (Dehghani et al. 2023, NaViT,
    arXiv:2307.06304, section 2.1: factorized, absolute, combined by a sum).

    Weights `rows` [rows, D] and `columns` [columns, D], from normal(0, 0.02). At another grid each
    is resized on its own axis, antialiased bicubic, in float32.
    """

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        self.rows, self.columns = (
            self.add_weight(
                shape=(length, self.width),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                name=name,
                autocast=False,
            )
            for name, length in zip(("rows", "columns"), self.grid, strict=True)
        )

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        grid = self.grid if grid is None else grid_of(grid)

        def along(axis, table):
            table = ops.cast(table, "float32")
            if sizes is None and grid[axis] == self.grid[axis]:
                return ops.expand_dims(table, 0)
            to_new = functools.partial(resize_matrix, self.grid[axis])
            return ops.matmul(_by_size(to_new, grid[axis], sizes, axis), table)

        return _sum_of_axes(along(0, self.rows), along(1, self.columns))

    def resized(self, new_grid: Size) -> list:
        tables = zip((self.rows, self.columns), self.grid, grid_of(new_grid), strict=True)
        return [
            (resize_matrix(old, new) @ ops.convert_to_numpy(table)).astype("float32")
            for table, old, new in tables
        ]


@keras.saving.register_keras_serializable("keras_vit")
class CoordinatePositions(Positions):
    """Adds a learned linear map of the normalised coordinates: [y, x] K, with `kernel` K [2, D].

    y runs from `low` in the first row to `high` in the last of the example's own grid, x likewise
    along the columns; where there is only one, it sits in the middle.

    Args:
        grid, prefix: see `Positions`.
        low, high: (-1, 1) or (0, 1).
    """

    def __init__(
        self, grid: Size, prefix: int = 0, low: float = -1.0, high: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(grid, prefix, **kwargs)
        if (low, high) not in ((-1, 1), (0, 1)):
            raise InputError(f"coordinates run from -1 to 1 or from 0 to 1, not from {low} to {high}.")
        self.low, self.high = float(low), float(high)

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        self.kernel = self.add_weight(
            shape=(2, self.width), initializer="glorot_uniform", name="kernel", autocast=False
        )

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        grid = self.grid if grid is None else grid_of(grid)
        kernel = ops.cast(self.kernel, "float32")

        def along(axis):
            coordinates = _by_size(self._coordinates, grid[axis], sizes, axis)
            return ops.expand_dims(coordinates, -1) * kernel[axis]

        return _sum_of_axes(along(0), along(1))

    def _coordinates(self, length):
        return np.linspace(self.low, self.high, length) if length > 1 else [(self.low + self.high) / 2]

    def get_config(self) -> dict:
        return {**super().get_config(), "low": self.low, "high": self.high}


@keras.saving.register_keras_serializable("keras_vit")
class OneHotPositions(Positions):
    """Adds one_hot(row, D // 2) to the first D // 2 channels and one_hot(column) to the others.

    A layer made for a sequence, grid (1, n), adds one_hot(index, D) over all channels. No weights.

    Raises:
        InputError: the grid of the layer or of a call has more rows or columns than channels to
            name them, or more than one row in a layer made for a sequence.
    """

    def build(self, tokens_shape: Shape, sizes_shape: Shape | None = None) -> None:
        super().build(tokens_shape)
        self._check_room(self.grid)

    def encode(self, grid: Size | None = None, sizes: Tensor | None = None) -> Tensor:
        rows, columns = self.grid if grid is None else grid_of(grid)
        self._check_room((rows, columns))
        half = self._room()[0] if self.grid[0] > 1 else 0
        row, column = np.divmod(np.arange(rows * columns), columns)
        table = np.zeros((1, rows * columns, self.width), "float32")
        table[0, np.arange(rows * columns), half + column] = 1.0
        if half:
            table[0, np.arange(rows * columns), row] = 1.0
        return ops.convert_to_tensor(table)

    def _room(self):
        """How many rows and columns have a channel of their own."""
        half = self.width // 2
        return (1, self.width) if self.grid[0] == 1 else (half, self.width - half)

    def _check_room(self, grid):
        room = self._room()
        if grid[0] > room[0] or grid[1] > room[1]:
            raise InputError(
                f"one-hot positions of width {self.width} name at most {room[0]} rows and {room[1]} columns, "
                f"not {grid[0]}x{grid[1]}: use wider tokens or another kind of position."
            )


def _check_multiple(kind, width, of):
    if width % of:
        raise InputError(
            f"{kind} positions need a width that is a multiple of {of}, not {width}: "
            f"use e.g. {-(-width // of) * of}."
        )
