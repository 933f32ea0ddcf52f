"""Masks: boolean, True = may be seen. Of tokens [B, N], or of pairs (query, key) [B, M, N].

They are explicit arguments everywhere, never Keras' implicit `_keras_mask`, and any number of
them is joined by `combine` before the one place that uses them, `Attention`.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_vit.config import Size, Tensor, pair
from keras_vit.errors import InputError

# In float32 exp(-1e30 - x) is exactly 0, and unlike -infinity it never makes a NaN.
MASKED_SCORE = -1e30
MASK_BIAS = -30000.0  # what `as_bias` adds


class ExplicitMask:
    """Mixed into layers that take a `mask`: Keras then hangs no implicit mask on what they give."""

    def compute_mask(self, inputs: Tensor, previous_mask: Any = None) -> None:
        return None


def as_mask(mask: Tensor) -> Tensor:
    """`mask` as booleans: float32 or int32 masks (what distribution strategies carry) count above 0.5."""
    return mask if getattr(mask, "dtype", None) == "bool" else ops.cast(mask, "float32") > 0.5


def as_bias(mask: Tensor) -> Tensor:
    """A mask of keys [B, N] or of pairs [B or 1, M, N] as what is added to scores: [B or 1, 1, 1 or M, N].

    0 where a key may be seen, -30000 where not. It does for attention what the mask does, by one addition
    that every phone runtime has, where each row sees some key, no token is NaN or infinite, and scores are
    below 10000. (A larger number would be infinite in a file with float16 weights.)
    """
    visible = ops.cast(combine(mask), "float32")
    return ops.expand_dims((visible - 1.0) * -MASK_BIAS, 1)


def token_mask(mask: Tensor, batch: int | None, tokens: int | None) -> Tensor:
    """`mask` as booleans; `InputError` unless it has the shape [batch, tokens], None being unknown."""
    shape, expected = tuple(mask.shape), (batch, tokens)
    if len(shape) != 2 or any(None not in (n, m) and n != m for n, m in zip(shape, expected, strict=True)):
        raise InputError(
            f"the mask has the shape {shape}; expected {expected}: one value per token, True = real."
        )
    return as_mask(mask)


def padding_mask(lengths: Tensor, length: int) -> Tensor:
    """Sequences of `lengths` [B] padded to `length`: [B, length], True on the first of each."""
    return ops.arange(length) < ops.expand_dims(ops.cast(lengths, "int32"), 1)


def grid_mask(sizes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images of `sizes` [B, 2] (rows, columns of patches) in the top left of `grid`: [B, rows * columns]."""
    rows, columns = grid
    sizes = ops.cast(sizes, "int32")
    inside = ops.logical_and(
        ops.expand_dims(padding_mask(sizes[:, 0], rows), 2),
        ops.expand_dims(padding_mask(sizes[:, 1], columns), 1),
    )
    return ops.reshape(inside, (-1, rows * columns))


def grid_sizes(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `grid_mask`: [B, 2], how far the real patches of each row reach down and right."""
    rows, columns = grid
    cells = ops.reshape(as_mask(mask), (-1, rows, columns))
    down = ops.cast(ops.any(cells, axis=2), "int32") * ops.arange(1, rows + 1)
    right = ops.cast(ops.any(cells, axis=1), "int32") * ops.arange(1, columns + 1)
    return ops.stack([ops.max(down, axis=1), ops.max(right, axis=1)], axis=1)


def causal_mask(length: int) -> np.ndarray:
    """No token sees a later one: [1, length, length], True where key <= query."""
    return np.tril(np.ones((1, length, length), "bool"))


def block_mask(
    query_groups: Tensor, key_groups: Tensor | None = None, allowed: Tensor | None = None
) -> Tensor:
    """Queries see the keys of some groups only: [B, M, N].

    Args:
        query_groups: int [B, M], the group of each query.
        key_groups: int [B, N]; those of the queries by default.
        allowed: boolean [G, G], which group (row) sees which (column); its own only by default
            (several pictures packed into one sequence, for instance).
    """
    queries = ops.cast(query_groups, "int32")
    keys = queries if key_groups is None else ops.cast(key_groups, "int32")
    if allowed is None:
        return ops.equal(ops.expand_dims(queries, 2), ops.expand_dims(keys, 1))
    allowed = np.asarray(allowed, "bool")
    if allowed.ndim != 2 or allowed.shape[0] != allowed.shape[1]:
        raise InputError(f"allowed must be a square table [groups, groups], not {list(allowed.shape)}.")
    groups = len(allowed)
    pairs = ops.expand_dims(queries, 2) * groups + ops.expand_dims(keys, 1)
    return ops.take(ops.convert_to_tensor(allowed.reshape(-1)), pairs)


def combine(*masks: Any) -> Tensor | None:
    """What all of `masks` allow: [B or 1, M or 1, N], or None when all are None.

    Each is None, of keys [B, N] or of pairs [B or 1, M, N].
    """
    joined = None
    for mask in masks:
        if mask is None:
            continue
        mask = as_mask(mask)
        if len(mask.shape) == 2:
            mask = ops.expand_dims(mask, 1)
        elif len(mask.shape) != 3:
            raise InputError(
                f"a mask has shape [batch, keys] or [batch, queries, keys], not {list(mask.shape)}."
            )
        joined = mask if joined is None else ops.logical_and(joined, mask)
    return joined


def pad_images(images: list, patch_size: Size) -> dict:
    """Pictures of several sizes as one batch for a model with `patch_mask=True`.

    Args:
        images: list of arrays [height, width, C], each a multiple of the patch.
        patch_size: (height, width) or one integer.

    Returns:
        {"image": float32 [B, H, W, C], each picture in the top left, "patch_mask": float32 [B, N]}.
    """
    h, w = pair(patch_size, "patch_size")
    images = [np.asarray(image, "float32") for image in images]
    if not images:
        raise InputError("no pictures given: a batch needs at least one.")
    for image in images:
        if image.ndim != 3 or image.shape[0] % h or image.shape[1] % w or not image.size:
            raise InputError(
                f"pictures must be [height, width, channels] with sizes that are multiples of the patch "
                f"{h}x{w}, not {list(image.shape)}: resize them."
            )
        if image.shape[2] != images[0].shape[2]:
            raise InputError(
                f"pictures must have equally many channels, not {images[0].shape[2]} and {image.shape[2]}."
            )
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    canvas = np.zeros((len(images), height, width, images[0].shape[2]), "float32")
    mask = np.zeros((len(images), height // h, width // w), "float32")
    for index, image in enumerate(images):
        canvas[index, : image.shape[0], : image.shape[1]] = image
        mask[index, : image.shape[0] // h, : image.shape[1] // w] = 1
    return {"image": canvas, "patch_mask": mask.reshape(len(images), -1)}
