"""Images to tokens by convolutions: `ConvPatches`, `OverlappingPatches`, `CompactStem`.

They share the contract of `patches.py`, masks included.
"""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Size, Tensor, integer, pair
from keras_vit.errors import InputError, one_of
from keras_vit.layers.linear import Convolution
from keras_vit.layers.patches import (
    Patches,
    Tokenizer,
    by,
    channels_of,
    grid_of,
    only_real,
    sizes,
    token_mask,
)
from keras_vit.layers.quantization import Roles


@keras.saving.register_keras_serializable("keras_vit")
class ConvPatches(Patches):
    """`Patches` computed as a convolution: the same function, arguments and variables.

    For runtimes whose convolution is faster than a transpose and a matrix product. The roles of
    `Linear` hold, but "input" is the image [B, H, W, C] here, not the cut patches.
    """

    def declare(self, roles: Roles) -> None:
        super().declare(dataclasses.replace(roles, full=roles.token))  # the image itself has no int8 form

    def call(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        (h, w), (height, width, channels) = self.patch_size, sizes(images, self.form, self.channels)
        rows, columns = self.grid(height, width)
        x = ops.cast(images, self.compute_dtype)  # a convolution takes no uint8 pixels
        if mask is not None:
            mask = token_mask(mask, images.shape[0], rows * columns)
            x = only_real_pixels(x, mask, (rows, columns))
        top, left = self.window[0] - h, self.window[1] - w
        if top or left:
            x = ops.pad(x, ((0, 0), (top, 0), (left, 0), (0, 0)))
        fake_quantize, bias = self.projection.fake_quantize, self.projection.bias
        kernel = fake_quantize("kernel", self.projection.kernel)
        kernel = ops.reshape(kernel, (*self.window, channels, self.width))
        x = ops.conv(fake_quantize("input", x), kernel, (h, w), "valid", data_format="channels_last")
        tokens = ops.reshape(x, (-1, rows * columns, self.width))
        tokens = fake_quantize("output", tokens if bias is None else ops.add(tokens, bias))
        return tokens if mask is None else only_real(tokens, mask)


@keras.saving.register_keras_serializable("keras_vit")
class OverlappingPatches(ConvPatches):
    """Patches that look beyond themselves: a convolution of stride p and kernel 2 p - 1.

    Images [B, H, W, C] become tokens [B, rows * columns, width] with the grid of `Patches`. Wang et
    al. 2021 (PVT v2, arXiv:2106.13797, section 3.2). The zero padding is their p - 1 on every
    side; what it adds at the bottom and on the right is never reached when the patch divides the
    image, so it is left out. Each token sees its own patch and p - 1 pixels above and to the left.
    The kernel is [(2h - 1) * (2w - 1) * C, width]. Arguments and errors are those of `Patches`.
    """

    @property
    def window(self) -> tuple[int, int]:
        h, w = self.patch_size
        return 2 * h - 1, 2 * w - 1

    def declare(self, roles: Roles) -> None:
        # A convolution cannot take a range for each token: it needs trained ones at both ends.
        static = {**roles.static, "input": "image"} if "output" in roles.static else {}
        self.projection.roles = Roles(static=static)


@keras.saving.register_keras_serializable("keras_vit")
class CompactStem(Tokenizer):
    """The convolutional tokenizer of Compact Transformers.

    Images [B, H, W, C] become tokens [B, rows * columns, width], row by row; the optional mask is
    [B, rows * columns]. Hassani et al. 2021 (arXiv:2104.05704, section 3.3): convolution 3 x 3
    without bias, ReLU, max pooling 3 x 3 with stride 2; log2(patch) times. The zero padding is 1 on
    every side of both. H and W must be known and multiples of the patch, else `InputError`.

    Args:
        patch_size: pixels from one token to the next; a power of two, at least 2, and square.
        width: length of a token.
        hidden: channels after every convolution but the last.
    """

    def __init__(self, patch_size: Size, width: int, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(width, **kwargs)
        self.patch_size = pair(patch_size, "patch_size")
        self.hidden = integer("hidden", hidden, 1)
        h, w = self.patch_size
        if h != w or h < 2 or h & (h - 1):
            near = 2 ** max(1, round(math.log2(max(h, w))))
            raise InputError(
                f"a compact stem halves the image stage by stage, so its patch must be square and a power "
                f"of two, not {by(self.patch_size)}: use e.g. patch_size={near}."
            )
        stages = h.bit_length() - 1
        self.convolutions = [
            Convolution(
                width if stage == stages else hidden,
                kernel_size=3,
                padding="same",  # at stride 1: one pixel on every side, whatever the size
                data_format="channels_last",
                activation="relu",
                use_bias=False,
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
                name=f"convolution_{stage}",
            )
            for stage in range(1, stages + 1)
        ]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens in an image of height x width pixels."""
        return grid_of((height, width), self.patch_size)

    def declare(self, roles: Roles) -> None:
        convolution, image = Convolution.roles, {"input": "image"}
        # In the order of the model's other inputs: in a multimodal model the input comes last.
        first = "output" in roles.static
        self.convolutions[0].roles = Roles(
            static={**image, **convolution.static},
            full={**image, **convolution.full} if first else {**convolution.full, **image},
        )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = self.channels = channels_of(input_shape, self.form)
        for convolution in self.convolutions:
            convolution.build((None, None, None, channels))
            channels = convolution.filters

    def call(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        height, width, _ = sizes(images, self.form, self.channels)
        grid = self.grid(height, width)
        if mask is not None:
            mask = token_mask(mask, images.shape[0], math.prod(grid))

        def real(x):
            return x if mask is None else only_real_pixels(x, mask, grid)

        x = real(ops.cast(images, self.compute_dtype))
        for convolution in self.convolutions:
            # What a convolution spreads into the padding must not come back in the next step.
            x = real(convolution(x))
            # Zeros pad the maximum as well as -infinity would: nothing is below 0 after the ReLU.
            # Explicit, because "same" pads an even size on one side only, unlike the paper's code.
            x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = real(ops.max_pool(x, 3, strides=2, padding="valid", data_format="channels_last"))
        return ops.reshape(x, (-1, math.prod(grid), self.width))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "patch_size": list(self.patch_size),
            "hidden": self.hidden,
        }


STEMS = {"linear": Patches, "conv": ConvPatches, "overlapping": OverlappingPatches, "compact": CompactStem}


def stem_for(name: str, /, patch_size: Size, width: int, use_bias: bool = True, **kwargs: Any) -> Tokenizer:
    """The layer that turns images into tokens, by name.

    Args:
        name: "linear" (`Patches`), "conv" (`ConvPatches`), "overlapping" (`OverlappingPatches`) or
            "compact" (`CompactStem`, which never has a bias).
        patch_size, width, use_bias: as in these layers.
        **kwargs: further arguments of the layer, e.g. `hidden` of "compact", `name`, `dtype`.
    """
    stem = STEMS[one_of("stem", name, STEMS)]
    if stem is not CompactStem:
        kwargs["use_bias"] = use_bias
    return stem(patch_size, width, **kwargs)


def only_real_pixels(x: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """A feature map [B, H, W, C], 0 in the patches of `grid` where the boolean `mask` [B, N] is False."""
    _, height, width, channels = x.shape
    rows, columns = grid
    # A row of patches at a time, as in `cut`: the mask is broadcast over a patch, not repeated.
    blocks = ops.reshape(x, (-1, height // rows, columns, width // columns * channels))
    real = ops.reshape(mask, (-1, 1, columns, 1))
    return ops.reshape(ops.where(real, blocks, 0), (-1, height, width, channels))
