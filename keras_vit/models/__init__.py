"""Whole models, and what fine-tuning does to them."""

from keras_vit.models.finetuning import freeze, is_decayed, layer_groups, learning_rate_scales
from keras_vit.models.vit import ViT

__all__ = ["ViT", "freeze", "is_decayed", "layer_groups", "learning_rate_scales"]
