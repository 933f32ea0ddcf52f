"""To look inside a model: any value by name, where it looks, what its positions mean, and the pictures."""

import importlib

_MODULE_OF = {
    "features": "keras_vit.inspect.capture",
    "feature_names": "keras_vit.inspect.capture",
    "attention_maps": "keras_vit.inspect.rollout",
    "attention_rollout": "keras_vit.inspect.rollout",
    "position_similarity": "keras_vit.inspect.similarity",
    "draw_position_similarity": "keras_vit.inspect.plots",
    "draw_reconstructions": "keras_vit.inspect.reconstructions",
    "draw_explanation": "keras_vit.inspect.plots",
    "draw_multimodal_explanation": "keras_vit.inspect.multimodal",
    "token_shares": "keras_vit.inspect.multimodal",
    "explain": "keras_vit.inspect.explaining",
}
__all__ = [*_MODULE_OF]


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'keras_vit.inspect' has no attribute '{name}'; it has {__all__}")
