"""From pictures to a trained model: data, augmentation, recipes, the trainer. Imports TensorFlow."""

import importlib

_MODULE_OF = {
    "ImageData": "keras_vit.data.image_data",
    "load_data": "keras_vit.data.image_data",
    "pack": "keras_vit.data.packing",
    "Recipe": "keras_vit.training.recipes",
    "recipe": "keras_vit.training.recipes",
    "pretraining_recipe": "keras_vit.training.recipes",
    "pretrain": "keras_vit.training.methods.pretraining",
    "load_teacher": "keras_vit.training.methods.distillation",
    "probe": "keras_vit.training.methods.probing",
    "find_rate": "keras_vit.training.methods.learning_rate_finder",
    "draw_augmentation": "keras_vit.training.augmentation_grid",
    "strategy": "keras_vit.distributed.strategies",
    "train": "keras_vit.training.trainer",
}
__all__ = [*_MODULE_OF]


def __getattr__(name):
    # On first use: reading pictures needs no TensorFlow.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'keras_vit.training' has no attribute '{name}'; it has {__all__}")
