"""`Patches`: an image cut into pieces, each projected to a token; and what all tokenizers share.

The others are in `stems.py` (convolutions), `tubelets.py` (video) and `spectrogram.py` (sound). All keep one
contract about padded batches.
With `mask` [B, N] (True = a real piece): tokens of masked pieces are exactly 0; what stands in their
pixels, even NaN, changes neither the other tokens nor a gradient; and an input that stands on
the grid of a larger canvas gives at its places the tokens it gives alone. Without a mask nothing is
added to the graph.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Size, Tensor, integer, pair
from keras_vit.errors import InputError
from keras_vit.layers.linear import Linear
from keras_vit.layers.masks import token_mask
from keras_vit.layers.quantization import Roles

IMAGES, VIDEOS = "[B, H, W, C]", "[B, T, H, W, C]"


class Tokenizer(keras.layers.Layer):
    """What the layers from raw input to tokens [B, N, width] share; they define `form` and `grid`."""

    form = IMAGES

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = integer("width", width, 1)

    def build(self, input_shape: Shape) -> None:
        if None not in input_shape[1:]:
            self.compute_output_shape(input_shape)  # a mistake is told before any weight is made

    def compute_mask(self, inputs: Tensor, previous_mask: Any = None) -> None:
        """None: tokens carry no implicit Keras mask. Without this method Keras warns at every mask."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *size, _ = sizes(input_shape, self.form)
        return (input_shape[0], math.prod(self.grid(*size)), self.width)

    def declare(self, roles: Roles) -> None:
        """Declare the `roles` of the projection for quantization, which depend on the model around it."""
        self.projection.roles = roles

    def get_config(self) -> dict:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("keras_vit")
class Patches(Tokenizer):
    """Cuts an image into patches and projects each to a token.

    Images [B, H, W, C] become tokens [B, rows * columns, width], row by row; the optional mask is
    [B, rows * columns]. This is the strided convolution of Dosovitskiy et al. 2020
    (arXiv:2010.11929, section 3.1), written as a reshape and one matrix product: the same
    function, and what a phone's matmul kernels run fastest. The kernel [h * w * C, width] is the
    convolution's [h, w, C, width], flattened.

    H and W may change from call to call, but must be known and multiples of the patch; C is the
    one the layer was built with. Anything else is an `InputError`.

    Args:
        patch_size: (h, w) in pixels, or one integer.
        width: length of a token.
        use_bias: whether the projection has one; the positions can hold it as well.
    """

    def __init__(self, patch_size: Size, width: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(width, **kwargs)
        self.patch_size = pair(patch_size, "patch_size")
        self.use_bias = use_bias
        self.projection = projection_of(self)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) in pixels of what one token sees."""
        return self.patch_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens in an image of height x width pixels."""
        return grid_of((height, width), self.patch_size)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.channels = channels_of(input_shape, self.form)
        self.projection.build((None, None, math.prod(self.window) * self.channels))

    def call(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        (h, w), (height, width, channels) = self.patch_size, sizes(images, self.form, self.channels)
        grid = self.grid(height, width)
        return project(self.projection, cut(images, grid, h, w * channels), mask)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "patch_size": list(self.patch_size),
            "use_bias": self.use_bias,
        }


# Shared with the other tokenizers.


def projection_of(layer: Any) -> Linear:
    """The `Linear` named "projection" of a layer that has `width` and `use_bias`."""
    return Linear(
        layer.width,
        use_bias=layer.use_bias,
        kernel_initializer="lecun_normal",
        dtype=layer.dtype_policy,
        name="projection",
    )


def cut(x: Tensor, grid: tuple[int, int], height: int, run: int) -> Tensor:
    """Pieces [B, rows * columns, height * run] of x [B, rows * height, columns * run].

    The axes of x after the second may be split further; only their product counts.
    """
    rows, columns = grid
    # [B * rows, height, columns, run]: four axes are enough, since w and C stay together.
    x = ops.reshape(x, (-1, height, columns, run))
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (-1, rows * columns, height * run))


def project(projection: Linear, pieces: Tensor, mask: Tensor) -> Tensor:
    """`projection` of pieces [B, N, K]; 0 where `mask` [B, N] is False."""
    if mask is None:
        return projection(pieces)
    mask = token_mask(mask, *pieces.shape[:2])
    # Also before the product: its gradient multiplies pieces by 0, and 0 * NaN is NaN.
    return only_real(projection(only_real(pieces, mask)), mask)


def only_real(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens [B, N, D], 0 where the boolean `mask` [B, N] is False. A choice: 0 * NaN would be NaN."""
    return ops.where(ops.expand_dims(mask, -1), tokens, 0)


def grid_of(size: Sequence[int], patch: Sequence[int], what: str = "an image", piece: str = "patch") -> Any:
    """How many pieces `patch` fill `size` along each axis; `InputError` when they do not fill it."""
    if any(n % p for n, p in zip(size, patch, strict=True)):
        near = [max(1, round(n / p)) * p for n, p in zip(size, patch, strict=True)]
        raise InputError(
            f"{what} of {by(size)} is not a multiple of the {piece} {by(patch)}: "
            f"the nearest that is, is {by(near)}."
        )
    return tuple(n // p for n, p in zip(size, patch, strict=True))


def by(size: Sequence[int]) -> str:
    """(16, 8) as "16x8"."""
    return "x".join(map(str, size))


def channels_of(shape: Shape, form: str) -> int:
    """The last axis of a shape that looks like `form`, such as "[B, H, W, C]"."""
    if len(shape) != form.count(",") + 1 or shape[-1] is None:
        raise InputError(f"expected the shape {form} with a known last axis, not {tuple(shape)}.")
    return shape[-1]


def sizes(x: Tensor | Shape, form: str, channels: int | None = None) -> tuple[int, ...]:
    """All axes but the batch, which must be known, of a tensor or shape; `channels` is the last one."""
    shape = tuple(getattr(x, "shape", x))
    if channels_of(shape, form) != (channels or shape[-1]):
        raise InputError(f"the layer was built for {channels} channels, not for the {shape[-1]} of {shape}.")
    if None in shape[1:]:
        raise InputError(
            f"expected the shape {form} with only the batch unknown, not {shape}: "
            "give the input a fixed size, e.g. keras.Input((224, 224, 3))."
        )
    return shape[1:]
