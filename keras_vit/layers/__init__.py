"""The parts of a Vision Transformer: one concept per file, pure `keras.ops`."""

from keras_vit.layers.attention import Attention
from keras_vit.layers.blocks import EncoderBlock
from keras_vit.layers.decoder import DecoderBlock
from keras_vit.layers.dropping import MaskTokens, PatchDropout
from keras_vit.layers.linear import Convolution, Linear
from keras_vit.layers.masks import (
    block_mask,
    causal_mask,
    combine,
    grid_mask,
    grid_sizes,
    pad_images,
    padding_mask,
)
from keras_vit.layers.merging import PatchMerger
from keras_vit.layers.mlp import Mlp, SwiGlu
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.patches import Patches
from keras_vit.layers.pooling import AttentionPooling, Pooling
from keras_vit.layers.positions import (
    CoordinatePositions,
    FactorisedPositions,
    LearnedPositions,
    NoPositions,
    OneHotPositions,
    RelativePositions,
    RotaryPositions,
    SinCos2DPositions,
    SinusoidalPositions,
    positions_for,
)
from keras_vit.layers.positions.resize import resize_patch_kernel, resize_positions
from keras_vit.layers.residual import LayerScale, StochasticDepth, depth_rates
from keras_vit.layers.spectrogram import SpectrogramPatches
from keras_vit.layers.stems import CompactStem, ConvPatches, OverlappingPatches, stem_for
from keras_vit.layers.tubelets import Tubelets

__all__ = [
    "Attention",
    "AttentionPooling",
    "CompactStem",
    "ConvPatches",
    "Convolution",
    "CoordinatePositions",
    "DecoderBlock",
    "EncoderBlock",
    "FactorisedPositions",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "Linear",
    "MaskTokens",
    "Mlp",
    "NoPositions",
    "OneHotPositions",
    "OverlappingPatches",
    "PatchDropout",
    "PatchMerger",
    "Patches",
    "Pooling",
    "RelativePositions",
    "RotaryPositions",
    "SinCos2DPositions",
    "SinusoidalPositions",
    "SpectrogramPatches",
    "StochasticDepth",
    "SwiGlu",
    "Tubelets",
    "block_mask",
    "causal_mask",
    "combine",
    "depth_rates",
    "grid_mask",
    "grid_sizes",
    "pad_images",
    "padding_mask",
    "positions_for",
    "resize_patch_kernel",
    "resize_positions",
    "stem_for",
]
