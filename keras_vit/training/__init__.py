"""From pictures to a trained model: data, augmentation, recipes, the trainer. Imports TensorFlow."""

import importlib

_HOME = {
    "ImageData": "keras_vit.training.data",
    "load_data": "keras_vit.training.data",
    "pack": "keras_vit.training.packing",
    "Recipe": "keras_vit.training.recipes",
    "recipe": "keras_vit.training.recipes",
    "pretraining_recipe": "keras_vit.training.recipes",
    "pretrain": "keras_vit.training.pretraining",
    "load_teacher": "keras_vit.training.distillation",
    "probe": "keras_vit.training.probing",
    "find_rate": "keras_vit.training.rate_finder",
    "strategy": "keras_vit.training.strategies",
    "train": "keras_vit.training.trainer",
}
__all__ = [*_HOME]


def __getattr__(name):
    # On first use: reading pictures needs no TensorFlow.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'keras_vit.training' has no attribute '{name}'; it has {__all__}")
