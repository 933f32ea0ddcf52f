"""Vision Transformers in Keras 3: train, quantize with awareness, export, verify.

Public names are loaded on first use, so that `import keras_vit` and the command line's
`--help` stay fast. Nothing here imports TensorFlow except `training` and `export`.
"""

import importlib

from keras_vit.registration import register_with_keras

__version__ = "0.1.0"

_MODULE_OF = {  # public name -> the module it lives in
    "MaskedViT": "keras_vit.models.masked",
    "MultimodalViT": "keras_vit.models.multimodal",
    "ViT": "keras_vit.models.vit",
    "ViTConfig": "keras_vit.config",
    "features": "keras_vit.inspect",
}
_MODULES = ("config", "export", "inspect", "layers", "losses", "modalities", "models", "training", "weights")

__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"keras_vit.{name}")
    raise AttributeError(f"module 'keras_vit' has no attribute '{name}'; it has {__all__}")


def __dir__():
    return sorted([*globals(), *__all__])


register_with_keras()
