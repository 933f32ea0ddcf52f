"""The parts of a Vision Transformer: one concept per file, pure `keras.ops`."""

from keras_vit.layers.attention import Attention
from keras_vit.layers.blocks import EncoderBlock, Mlp
from keras_vit.layers.linear import Linear
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.patches import Patches
from keras_vit.layers.pooling import Pooling
from keras_vit.layers.positions import LearnedPositions

__all__ = [
    "Attention",
    "EncoderBlock",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "Mlp",
    "Patches",
    "Pooling",
]
