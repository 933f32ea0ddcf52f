"""Whole models, and what fine-tuning does to them."""

from keras_vit.models.finetuning import freeze, is_decayed, layer_groups, learning_rate_scales
from keras_vit.models.masked import MaskedViT
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.vit import ViT

__all__ = [
    "MaskedViT",
    "MultimodalViT",
    "ViT",
    "freeze",
    "is_decayed",
    "layer_groups",
    "learning_rate_scales",
]
