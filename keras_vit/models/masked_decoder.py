"""The decoder of masked autoencoders (MAE)."""

from typing import Any

import keras

from keras_vit.config import Tensor
from keras_vit.layers import EncoderBlock, LayerNorm, Linear, SinCos2DPositions
from keras_vit.layers.masks import ExplicitMask

HEAD_WIDTH = 32  # channels of an attention head: those of MAE's


class MaskedDecoder(ExplicitMask, keras.layers.Layer):
    """MAE's decoder: a projection of the encoder's tokens, fixed positions, blocks, and a norm."""

    def __init__(self, width: int, depth: int, encoder: Any, **kwargs: Any) -> None:
        super().__init__(dtype=encoder.dtype_policy, **kwargs)
        shared = {"dtype": self.dtype_policy}
        grid = encoder.config.grid(encoder.image_size)
        self.embed = Linear(width, name="embed", **shared)
        self.positions = SinCos2DPositions(grid, encoder.prefix, "mae", name="positions", **shared)
        num_heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.blocks = [EncoderBlock(num_heads, 4 * width, name=f"block_{i}", **shared) for i in range(depth)]
        self.norm = LayerNorm(name="norm", **shared)
        tokens = (None, encoder.prefix + grid[0] * grid[1], width)
        self.embed.build((None, None, encoder.config.width))
        layers: list[Any] = [self.positions, *self.blocks, self.norm]
        for layer in layers:
            layer.build(tokens)
        self.built = True

    def call(
        self, x: Tensor, grid: tuple[int, int], mask: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        x = self.positions(x, grid=grid)
        for block in self.blocks:
            x = block(x, mask=mask, training=training)
        return self.norm(x, training=training)
