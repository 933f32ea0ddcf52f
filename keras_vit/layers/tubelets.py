"""`Tubelets`: a video cut into small boxes of space and time, each projected to a token.

The contract about masks is that of `patches.py`.
"""

import math
from typing import Any

import keras

from keras_vit.config import Shape, Tensor, integer, pair
from keras_vit.errors import InputError
from keras_vit.layers.patches import (
    VIDEOS,
    Tokenizer,
    channels_of,
    cut,
    grid_of,
    project,
    projection_of,
    sizes,
)


@keras.saving.register_keras_serializable("keras_vit")
class Tubelets(Tokenizer):
    """Cuts a video into blocks of a few frames by a few pixels and projects each to a token.

    Videos [B, T, H, W, C] become tokens [B, t * rows * columns, width], earlier frames first and
    row by row within them; the optional mask is [B, t * rows * columns]. Tubelet embedding of
    Arnab et al. 2021 (ViViT, arXiv:2103.15691, section 3.2). The kernel [f * h * w * C, width] is
    the 3-D convolution's [f, h, w, C, width], flattened. T, H, W must be multiples of the
    tubelet, else `InputError`.

    Args:
        tubelet_size: (frames, height, width).
        width: length of a token.
        use_bias: whether the projection has one.
    """

    form = VIDEOS

    def __init__(
        self, tubelet_size: tuple[int, int, int], width: int, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(width, **kwargs)
        try:
            frames, *patch = tubelet_size
            self.tubelet_size = (integer("frames", frames, 1), *pair(patch, "patch_size"))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"tubelet_size must be three positive integers (frames, height, width), not {tubelet_size!r}."
            ) from error
        self.use_bias = use_bias
        self.projection = projection_of(self)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, rows, columns) of tokens in a video of that many frames and pixels."""
        return grid_of((frames, height, width), self.tubelet_size, what="a video", piece="tubelet")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.channels = channels_of(input_shape, self.form)
        self.projection.build((None, None, math.prod(self.tubelet_size) * self.channels))

    def call(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        (f, h, w), (*size, channels) = self.tubelet_size, sizes(video, self.form, self.channels)
        t, rows, columns = self.grid(*size)
        # Cut each frame, then the column of frames: two transposes of four axes, which every
        # phone runtime has, in place of one of six.
        x = cut(video, (rows, columns), h, w * channels)
        x = cut(x, (t, rows * columns), f, h * w * channels)
        return project(self.projection, x, mask)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "tubelet_size": list(self.tubelet_size),
            "use_bias": self.use_bias,
        }
