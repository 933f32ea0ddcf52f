"""Where Keras finds the classes that stand in saved files, before the modules that define them are imported.

`keras.models.load_model` looks a class up under the name that `register_keras_serializable` gave it. `import
keras_vit` imports neither Keras nor the modules of these classes. So as soon as both are imported, in either
order, something stands in for each class, which is imported when it is first read from a file.
"""

import importlib
import importlib.util
import sys

PACKAGE = "keras_vit"
REGISTERED = {  # module -> the classes that it registers; tests/test_keras_contract.py finds what is missing
    "keras_vit.export.quantization.model": ("QuantizeAware",),
    "keras_vit.layers": (
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
    ),
    "keras_vit.losses": ("MaskedReconstruction", "SmoothedCrossEntropy"),
    "keras_vit.modalities": (
        "Action",
        "Audio",
        "CaptionDecoder",
        "Image",
        "LogMel",
        "Text",
        "Video",
        "VisualPrediction",
    ),
    "keras_vit.models": ("MaskedViT", "MultimodalViT", "ViT"),
    "keras_vit.training.metrics": ("CountedAccuracy",),
    "keras_vit.training.optimization.optimizer": ("LayerwiseAdamW", "SummedAdamW"),
}


def register_with_keras() -> None:
    """Register all of these: now, or as soon as Keras is imported."""
    if sys.modules.get("keras"):
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder:
    """Finds Keras where Python's own finders do, and lets `_register` run when it has been imported."""

    def __init__(self):
        self.asks_others = False

    def find_spec(self, name, path=None, target=None):
        if name != "keras" or self.asks_others:
            return None
        self.asks_others = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asks_others = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_register(spec.loader.exec_module)
        return spec


def _then_register(exec_module):
    def run(module):
        exec_module(module)
        _register()

    return run


def _register():
    """Those that were imported already stay as they are."""
    import keras

    known = keras.saving.get_custom_objects()
    for module, names in REGISTERED.items():
        for name in names:
            if f"{PACKAGE}>{name}" not in known:
                keras.saving.register_keras_serializable(PACKAGE, name)(_stand_in(module, name))


def _stand_in(module, name):
    def from_config(config):
        return getattr(importlib.import_module(module), name).from_config(config)

    def get_config(self):
        """Keras registers no class without it."""
        raise NotImplementedError

    return type(name, (), {"from_config": staticmethod(from_config), "get_config": get_config})
