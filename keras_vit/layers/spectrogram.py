"""`SpectrogramPatches`: sound as a picture of time and frequency, cut into patches.

The contract about masks is that of `patches.py`.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Size, Tensor, pair
from keras_vit.errors import InputError
from keras_vit.layers.patches import (
    Tokenizer,
    by,
    channels_of,
    cut,
    grid_of,
    project,
    projection_of,
    sizes,
)


@keras.saving.register_keras_serializable("keras_vit")
class SpectrogramPatches(Tokenizer):
    """Cuts a spectrogram into patches, which may overlap, and projects each to a token.

    Spectrograms [B, frames, bins] or [B, frames, bins, 1] become tokens [B, N, width], earlier
    patches first and low bins first within them; N is the product of `grid(frames, bins)`. Gong et
    al. 2021 (AST, arXiv:2104.01778, section 2.1): patches of 16 x 16, stride 10. There is no
    padding: with overlap, up to stride - 1 last frames and bins that fill no patch are left out, as
    in AST; along an axis without overlap they must fill patches exactly, else `InputError`.

    The optional mask [B, N] speaks of tokens. With overlap, a frame that both a masked and a real
    token see counts as real: mask every token that looks into the padding.

    Args:
        patch_size: (frames, bins) of a patch, or one integer.
        width: length of a token.
        stride: (frames, bins) from one patch to the next, at most the patch; None means the patch.
        use_bias: whether the projection has one.
    """

    def __init__(
        self, patch_size: Size, width: int, stride: Size | None = None, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(width, **kwargs)
        self.patch_size = pair(patch_size, "patch_size")
        self.stride = self.patch_size if stride is None else pair(stride, "stride")
        if any(s > p for s, p in zip(self.stride, self.patch_size, strict=True)):
            raise InputError(
                f"stride {by(self.stride)} is larger than the patch {by(self.patch_size)} and would skip "
                f"parts of the spectrogram: use at most {by(self.patch_size)}."
            )
        self.use_bias = use_bias
        self.projection = projection_of(self)

    def grid(self, frames: int, bins: int) -> tuple[int, int]:
        """(time steps, bands) of tokens in a spectrogram of frames x bins."""
        size, what = (frames, bins), "a spectrogram"
        if any(n < p for n, p in zip(size, self.patch_size, strict=True)):
            raise InputError(
                f"{what} of {by(size)} is smaller than the patch {by(self.patch_size)}: "
                "pad it or use a smaller patch."
            )
        # An axis with overlap may leave a rest; one without must be filled exactly.
        exact = [p if p == s else 1 for p, s in zip(self.patch_size, self.stride, strict=True)]
        grid_of(size, exact, what)
        steps, bands = ((n - p) // s + 1 for n, p, s in zip(size, self.patch_size, self.stride, strict=True))
        return steps, bands

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels_of(input_shape, self._form(input_shape))
        self.projection.build((None, None, math.prod(self.patch_size)))

    def call(self, spectrogram: Tensor, mask: Tensor | None = None) -> Tensor:
        frames, bins, *_ = sizes(spectrogram, self._form(spectrogram.shape))
        grid = self.grid(frames, bins)
        # Overlap is the plain cut of a spectrogram whose shared frames and bins are written twice:
        # one matrix product in every case, and each token has its own copy to be masked.
        for axis, (count, p, s) in enumerate(zip(grid, self.patch_size, self.stride, strict=True), start=1):
            if s != p:
                windows = np.arange(count)[:, np.newaxis] * s + np.arange(p)
                spectrogram = ops.take(spectrogram, windows.reshape(-1).astype("int32"), axis=axis)
        return project(self.projection, cut(spectrogram, grid, *self.patch_size), mask)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        frames, bins, *_ = sizes(input_shape, self._form(input_shape))
        return (input_shape[0], math.prod(self.grid(frames, bins)), self.width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "patch_size": list(self.patch_size),
            "stride": list(self.stride),
            "use_bias": self.use_bias,
        }

    @staticmethod
    def _form(shape):
        if len(shape) == 4 and shape[3] != 1:
            raise InputError(
                f"a spectrogram is [B, frames, bins] or [B, frames, bins, 1], not {tuple(shape)}."
            )
        return "[B, frames, bins, 1]" if len(shape) == 4 else "[B, frames, bins]"
