"""Position tables of checkpoints: the grid that one is made for, and its rows in the form of `ViT`."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_vit.config import pair
from keras_vit.errors import InputError, Notice


def find_grid(
    path: Path,
    counts: Sequence[int],
    patch_size: tuple[int, int],
    image_size: tuple[int, int] | None = None,
    hint: int | tuple[int, int] | None = None,
) -> tuple[int, int]:
    """(rows, columns) of the patches that a position table is made for.

    Args:
        path: of the file, for messages.
        counts: numbers of patches that the table's length allows (with and without class tokens).
        patch_size: (h, w).
        image_size: (height, width) as the file itself says, or None.
        hint: what the user says; asked only when the file does not tell. Without it, or where it does not
            fit, a square number of patches is a square (of another size, positions are resized).
    """
    sizes = {}
    if image_size is not None:
        sizes["the file's"] = image_size
    squares = [math.isqrt(count) for count in counts if count > 0 and math.isqrt(count) ** 2 == count]
    if hint is not None:
        sizes["the given"] = pair(hint, "image_size")
    if len(squares) == 1:
        side = squares[0]
        sizes["square"] = (side * patch_size[0], side * patch_size[1])
    for height, width in sizes.values():
        grid = (height // patch_size[0], width // patch_size[1])
        if grid[0] * grid[1] not in counts or 0 in grid:
            continue
        wanted = sizes.get("the given", (height, width))
        if wanted[0] != wanted[1] and wanted != (height, width) and image_size is None:
            warnings.warn(
                Notice(
                    f"{path} does not tell its grid: it is taken for {grid[0]}x{grid[1]} patches, and "
                    f"resized to {wanted[0]}x{wanted[1]} pixels. If it was trained for another, read it with "
                    "image_size=(height, width) of that."
                ),
                stacklevel=2,
            )
        return grid
    patches = f"{patch_size[0]}x{patch_size[1]} pixels"
    needed = f"{path}: its position table is for {' or '.join(map(str, counts))} patches of {patches}"
    if hint is not None:
        size = sizes["the given"]
        rows, columns = size[0] // patch_size[0], size[1] // patch_size[1]
        raise InputError(
            f"{needed}, and image_size={size} has {rows}x{columns} = {rows * columns}: give the size that it "
            "was trained for."
        )
    raise InputError(
        f"{needed}, in a grid that the file does not tell: give image_size=(height, width), the size that it "
        "was trained for."
    )


def arrange_positions(
    tensors: dict[str, np.ndarray], prefix: Sequence[str], pooled: Sequence[str], num_patches: int
) -> None:
    """Bring positions and the tokens before the patches into the form of `ViT`, in place.

    Sources differ in which of these tokens have a position. In `ViT` exactly those that are pooled have one
    (zeros if the source has none), and all others are registers, to which their position is added here.

    Args:
        tensors: {variable: array}; "positions/table" [1, patches or patches + prefix tokens, D].
        prefix: names of the tokens before the patches, in the source's order, each [1, n, D].
        pooled: those of them that the heads or the pooling read, in the order of `ViT`.
        num_patches: number of patches.
    """
    table = tensors.pop("positions/table")
    values = {name: tensors.pop(name) for name in prefix}
    length, width = sum(value.shape[1] for value in values.values()), table.shape[2]
    prefix_rows = (
        table[:, :-num_patches] if table.shape[1] > num_patches else np.zeros((1, length, width), "float32")
    )
    split = (
        np.split(prefix_rows, np.cumsum([value.shape[1] for value in values.values()])[:-1], axis=1)
        if prefix
        else []
    )
    rows = dict(zip(prefix, split, strict=True))
    tensors.update({name: values[name] for name in pooled})
    tensors["positions/table"] = np.concatenate(
        [*(rows[name] for name in pooled), table[:, -num_patches:]], axis=1
    )
    registers = [values[name] + rows[name] for name in prefix if name not in pooled]
    if registers:
        tensors["registers"] = np.concatenate(registers, axis=1)
