"""Resizing what belongs to a grid: position tables and patch kernels, by matrices, in NumPy.

A resize is linear and separable: rows and columns each have a matrix, so R T C^T resizes a table T.
"""

import functools

import numpy as np
from keras import ops

from keras_vit.config import Size, Tensor, pair
from keras_vit.errors import InputError, one_of


def _cubic(x):
    """Keys' kernel with a = -0.5 (Keys 1981), the one of Pillow, JAX and antialiased PyTorch."""
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


KERNELS = {"bicubic": _cubic, "bilinear": lambda x: np.maximum(0.0, 1.0 - x)}


@functools.lru_cache(maxsize=1024)  # a batch of mixed sizes asks for every size, at every step
def resize_matrix(old: int, new: int, method: str = "bicubic") -> np.ndarray:
    """The matrix [new, old], float64 and read-only, that resizes a signal of `old` samples to `new`.

    Samples sit at half-pixel centres; the kernel is widened by old / new when shrinking
    (antialiasing), and every row sums to 1, at the borders too. That is what
    `jax.image.resize(antialias=True)`, Pillow's BICUBIC and BILINEAR and PyTorch's
    `interpolate(antialias=True)` compute. The identity when old == new.

    Args:
        old, new: number of samples, at least 1.
        method: "bicubic" or "bilinear".
    """
    kernel = KERNELS[one_of("resize method", method, KERNELS)]
    if old < 1 or new < 1:
        raise InputError(f"a signal of {old} samples cannot become one of {new}: both must be at least 1.")
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    distance = np.abs(centres[:, None] - np.arange(old)) / max(old / new, 1.0)
    weights = kernel(distance)
    matrix = weights / weights.sum(axis=1, keepdims=True)
    matrix.setflags(write=False)  # the cache hands the same array to everyone
    return matrix


def resize_grid(table: Tensor, new_grid: tuple[int, int], method: str = "bicubic") -> np.ndarray:
    """R T C^T: a table [rows, columns, D] at `new_grid` -> float64 [rows', columns', D]."""
    table = np.asarray(ops.convert_to_numpy(table), "float64")
    rows = resize_matrix(table.shape[0], new_grid[0], method)
    columns = resize_matrix(table.shape[1], new_grid[1], method)
    return np.einsum("ah,bw,hwd->abd", rows, columns, table, optimize=True)


def resize_positions(table: Tensor, old_grid: Size, new_grid: Size, prefix: int = 0) -> np.ndarray:
    """A learned position table for another grid of patches, antialiased bicubic.

    [1, prefix + rows * columns, D] -> NumPy float32 [1, prefix + rows' * columns', D]; a table
    without the leading 1 keeps its rank as well. The first `prefix` rows ([CLS], registers)
    belong to no patch and stay. Fine-tuning at another resolution: Dosovitskiy et al. 2020,
    section 3.2.

    Args:
        table: array or tensor.
        old_grid, new_grid: (rows, columns). Not counts: 64 tokens can be 8 x 8 or 4 x 16.
        prefix: number of leading rows to keep.

    Raises:
        InputError: the table's length is not prefix + rows * columns of `old_grid`.
    """
    (rows, columns), grid = _grid(old_grid, "old_grid"), _grid(new_grid, "new_grid")
    table = np.asarray(ops.convert_to_numpy(table), "float32")
    if table.ndim not in (2, 3) or (table.ndim == 3 and table.shape[0] != 1):
        raise InputError(f"a position table has the shape [1, N, D] or [N, D], not {list(table.shape)}.")
    length, width = table.shape[-2:]
    if length != prefix + rows * columns:
        raise InputError(
            f"a position table of {length} rows does not fit {prefix} leading tokens and a grid of "
            f"{rows}x{columns}, which make {prefix + rows * columns}: give the grid and "
            "the prefix that it was made for."
        )
    if (rows, columns) == grid:
        return table.copy()
    kept, patches = np.split(table.reshape(length, width), [prefix])
    patches = resize_grid(patches.reshape(rows, columns, width), grid).reshape(-1, width)
    resized = np.concatenate([kept, patches.astype("float32")])
    return resized.reshape(*table.shape[:-2], *resized.shape)


def _grid(value, name):
    if isinstance(value, int):
        raise InputError(
            f"{name} must be (rows, columns), not {value!r}: a count says nothing about the shape."
        )
    return pair(value, name)


def resize_patch_kernel(kernel: np.ndarray, new_size: Size, method: str = "bilinear") -> np.ndarray:
    """A patch projection for another patch size that sees in a resized patch what the old one saw.

    [h, w, C, D] -> NumPy float32 [h', w', C, D]: the pseudo-inverse of Beyer et al. 2022
    (FlexiViT, arXiv:2212.08013, equation 4), (B^T)^+ w for the resize x -> B x of a patch. When
    the patch grows, <B x, new> == <x, old> for every patch x; when it shrinks, the difference
    is the least possible over white noise. B is separable, so its pseudo-inverse is as well.

    Args:
        kernel: array or tensor [h, w, C, D].
        new_size: (h', w') in pixels, or one integer.
        method: how patches are resized; "bilinear" in the paper.
    """
    kernel = np.asarray(ops.convert_to_numpy(kernel), "float64")
    if kernel.ndim != 4:
        raise InputError(
            f"a patch kernel has the shape [h, w, channels, width], not {list(kernel.shape)}: "
            "reshape it first."
        )
    new_size = pair(new_size, "new_size")
    rows, columns = (
        np.linalg.pinv(resize_matrix(old, new, method).T)
        for old, new in zip(kernel.shape[:2], new_size, strict=True)
    )
    return np.einsum("ah,bw,hwcd->abcd", rows, columns, kernel, optimize=True).astype("float32")
