"""Quantization-aware training, export to TFLite and SavedModel, and the proof that all copies agree."""

import importlib

_MODULE_OF = {
    "About": "keras_vit.export.options",
    "Serving": "keras_vit.export.options",
    "export": "keras_vit.export.directory",
    "fold": "keras_vit.export.tflite.fold",
    "load_runner": "keras_vit.export.verification.runners",
    "quantize_aware": "keras_vit.export.quantization.model",
    "verify": "keras_vit.export.verification.verify",
}
__all__ = list(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'keras_vit.export' has no attribute '{name}'; it has {__all__}")
