"""Encoder blocks of a modality's own, before the shared trunk."""

from typing import Any

from keras_vit.config import Tensor
from keras_vit.layers.blocks import EncoderBlock
from keras_vit.layers.norm import LayerNorm


def block_options(layer: Any) -> dict:
    """The arguments of the blocks of a layer, which has `width` and these.

    Unless the layer says otherwise, a head for each 64 channels and MLPs of 4 times the width.
    """
    return {
        "num_heads": layer.num_heads or max(1, layer.width // 64),
        "mlp_width": layer.mlp_width or 4 * layer.width,
        "dropout": layer.dropout,
        "attention": layer.attention_options,
        "affine": layer.affine,
    }


def encoder_for(layer: Any, tokens: int, adds_bias: bool = False) -> list:
    """[blocks..., norm] for tokens [B, `tokens`, width], `layer.depth` of them; [] for a depth of 0.

    `adds_bias`: whether `encoded` is called with a `bias`.
    """
    shared = {"dtype": layer.dtype_policy}
    blocks = [EncoderBlock(**block_options(layer), name=f"encoder_{i}", **shared) for i in range(layer.depth)]
    for block in blocks:
        block.attention.adds_bias = adds_bias
    parts: list[Any] = [*blocks, LayerNorm(name="norm", **shared)] if blocks else []
    for part in parts:
        part.build((None, tokens, layer.width))
    return parts


def encoded(parts: list, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Tokens x [B, N, D] through what `encoder_for` gave; `bias` on their scores, see `masks.as_bias`."""
    for part in parts:
        x = part(x, bias=bias) if isinstance(part, EncoderBlock) else part(x)
    return x
