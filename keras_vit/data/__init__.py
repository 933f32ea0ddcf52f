"""From where pictures lie to batches: sources, decoding, splits, augmentation, tf.data pipelines."""

import importlib

_MODULE_OF = {
    "Examples": "keras_vit.data.examples",
    "ImageData": "keras_vit.data.image_data",
    "load_data": "keras_vit.data.image_data",
    "load_examples": "keras_vit.data.multimodal",
    "pack": "keras_vit.data.packing",
}
__all__ = [*_MODULE_OF]


def __getattr__(name):
    # On first use: reading pictures needs no TensorFlow.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'keras_vit.data' has no attribute '{name}'; it has {__all__}")
