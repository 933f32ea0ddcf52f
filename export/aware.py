"""Quantization-aware training: `quantize_aware(model, profile)` gives a model for `fit`.

The model is folded first (`export.graph`), then fake quantizers are hung into the `quantize`
hooks of its `Linear` and `Attention` layers. What it computes is what the exported file will
compute: what you train is what you ship.
"""

import keras
import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.export.graph import fold
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantizers import FakeQuantizer
from keras_vit.layers import Attention, Linear
from keras_vit.models.vit import ViT


def quantize_aware(model, profile, calibration=None):
    """A quantization-aware copy of `model`, for `compile` and `fit`.

    It takes the same images as `model` (normalised) and gives logits. Without further training
    it is the post-training quantization of `model`.

    Args:
        model: a `ViT` with a head.
        profile: "int8" or "int8_static".
        calibration: images [N, H, W, 3] with values 0..255, from which trained ranges start;
            int8_static wants about a hundred. Without them, noise is used: train before you
            export then.

    Raises:
        InputError: unknown profile, a model that is not a `ViT`, images of another shape.
    """
    profile = profile_named(profile, quantized=True)
    if isinstance(model, QuantizeAware):
        raise InputError(
            f"this model is already quantization-aware ({model.profile}): give the float model it came from."
        )
    aware = QuantizeAware(
        fold(model), profile.name, preprocessing=model.preprocessing, name=f"{model.name}_{profile.name}"
    )
    if profile.activations == "static":
        if calibration is None:
            calibration = np.random.default_rng(0).integers(0, 256, (32, *model.image_size, 3))
        aware.calibrate(calibration)
    return aware


@keras.saving.register_keras_serializable("keras_vit")
class QuantizeAware(keras.Model):
    """A folded ViT with fake quantizers in it. Made by `quantize_aware`.

    Args:
        model: the folded `ViT`, on raw pixels.
        profile: name of the profile.
        preprocessing: of the model it came from; images arrive normalised by it.
    """

    def __init__(self, model, profile, preprocessing, name=None, dtype=None, trainable=True):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.model = model
        self.profile = profile
        self.preprocessing = dict(preprocessing)
        self.image_size, self.classes = model.image_size, model.classes
        self.quantizers = _attach(model, profile_named(profile, quantized=True))
        self.build((None, *self.image_size, 3))

    def build(self, input_shape):
        # One eager pass over a blank picture builds each quantizer with the shape it meets.
        self.model(np.zeros((1, *self.image_size, 3), "float32"))
        self.built = True

    def call(self, images, training=None):
        mean, std = (np.asarray(self.preprocessing[key], "float32") for key in ("mean", "std"))
        pixels = ops.cast(images, "float32") * (std * 255.0) + mean * 255.0
        return self.model(pixels, training=training)

    def compute_output_shape(self, input_shape):
        return self.model.compute_output_shape(input_shape)

    def calibrate(self, images, batch_size=32):
        """Set every trained range to the mean over batches of the batch's minimum and maximum.

        Args:
            images: [N, H, W, 3], values 0..255.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (*self.image_size, 3) or not len(images):
            raise InputError(
                f"calibration images must have shape [N, {self.image_size[0]}, {self.image_size[1]}, 3] with "
                f"N > 0, not {list(images.shape)}."
            )
        if not np.isfinite(images).all():
            raise InputError("calibration images contain NaN or infinity: values must be in 0..255.")
        seen = {}

        def observe(name, role, x):
            if (key := f"{name}.{role}") in self.quantizers and role != "kernel":
                seen.setdefault(key, []).append((float(ops.min(x)), float(ops.max(x))))
            return x

        hooks = {layer: layer.quantize for _, layer in _quantizable(self.model)}
        try:
            for name, layer in _quantizable(self.model):
                layer.quantize = lambda role, x, name=name: observe(name, role, x)
            for start in range(0, len(images), batch_size):
                self.model(images[start : start + batch_size].astype("float32"))
        finally:
            for layer, hook in hooks.items():
                layer.quantize = hook
        for key, ranges in seen.items():
            if self.quantizers[key].has_trained_range:
                self.quantizers[key].set_range(*np.mean(ranges, axis=0))

    def deploy(self):
        """What the exporter needs: (folded `ViT` with rounded weights, ranges).

        The ViT takes raw pixels and has no fake quantizers; every kernel holds exactly the
        values that int8 can hold. `ranges` maps "block_0.attention.query.input" to (low, high).
        """
        plain = ViT.from_config(self.model.get_config())
        for source, target in zip(self.model.weights, plain.weights, strict=True):
            target.assign(source)
        for name, layer in _quantizable(plain):
            if (quantizer := self.quantizers.get(f"{name}.kernel")) is not None:
                layer.kernel.assign(quantizer(layer.kernel))
        ranges = {key: quantizer.get_range() for key, quantizer in self.quantizers.items()}
        return plain, {key: value for key, value in ranges.items() if value is not None}

    def get_config(self):
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "profile": self.profile,
            "preprocessing": self.preprocessing,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        return cls(**config)


def _quantizable(model):
    """Yield (dotted name, layer) for every layer of `model` that has a `quantize` hook."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, Linear):
            path = layer.kernel.path.removesuffix("/kernel")
        elif isinstance(layer, Attention):
            path = layer.query.kernel.path.removesuffix("/query/kernel")
        else:
            continue
        yield path.removeprefix(f"{model.name}/").replace("/", "."), layer


def _attach(model, profile):
    """Hang fake quantizers into `model`; return them by dotted name and role."""
    quantizers = {}
    for name, layer in _quantizable(model):
        own = {
            role: FakeQuantizer(kind, name=f"{name}.{role}")
            for role, kind in _kinds(name, layer, profile).items()
        }
        layer.quantize = lambda role, x, own=own: own[role](x) if role in own else x
        quantizers.update({f"{name}.{role}": quantizer for role, quantizer in own.items()})
    return quantizers


def _kinds(name, layer, profile):
    """Role -> kind of fake quantizer for one layer."""
    if isinstance(layer, Attention):
        return {"scores": "range", "probabilities": "range"} if profile.activations == "static" else {}
    if profile.activations == "token" or name == "head":
        # The head is a sliver of the time, and its logits decide: it keeps the finer rounding.
        return {"input": "token", "kernel": "weight"}
    return {
        "input": "pixels" if name == "patches.projection" else "range",
        "kernel": "weight",
        # Keys and values are the right-hand sides of the attention's matmuls.
        "output": "symmetric_range" if name.endswith((".key", ".value")) else "range",
    }
