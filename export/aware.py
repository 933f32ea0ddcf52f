"""Quantization-aware training: `quantize_aware(model, profile)` gives a model for `fit`.

The model is folded first (`export.graph`), then fake quantizers are hung into the `quantize`
hooks of its `Linear` and `Attention` layers. What it computes is what the exported file will
compute: what you train is what you ship.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.export.graph import RAW_PIXELS, fold, pixel_rows, subtract_from_positions
from keras_vit.export.inputs import calibration_images
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantizers import FakeQuantizer
from keras_vit.layers import Attention, Linear
from keras_vit.models.vit import ViT

PATCHES = "patches.projection"


def quantize_aware(model, profile, calibration=None):
    """A quantization-aware copy of `model`, for `compile` and `fit`.

    It takes the same images as `model` (normalised) and gives logits. Without further training
    it is the post-training quantization of `model`.

    Args:
        model: a `ViT` with a head.
        profile: "int8" or "int8_static".
        calibration: pictures from which trained ranges start, at least about a hundred, only for a
            static profile: an array [N, H, W, 3] with values 0..255, a tf.data dataset, a folder or
            an `ImageData`. Without them, noise is used: train before you export then.

    Raises:
        InputError: unknown profile, a model that is not a `ViT`, images of another shape.
    """
    profile = profile_named(profile, quantized=True)
    if isinstance(model, QuantizeAware):
        raise InputError(
            f"this model is already quantization-aware ({model.profile}): give the float model it came from."
        )
    aware = QuantizeAware(fold(model, pixels=False), profile.name, name=f"{model.name}_{profile.name}")
    if profile.activations == "static":
        if calibration is None:
            calibration = np.random.default_rng(0).integers(0, 256, (32, *model.image_size, 3))
        aware.calibrate(calibration_images(calibration, model.image_size))
    return aware


@keras.saving.register_keras_serializable("keras_vit")
class QuantizeAware(keras.Model):
    """A folded ViT with fake quantizers in it. Made by `quantize_aware`.

    Images arrive normalised, as for the model it came from, and are turned back into the pixels
    that the exported file will see. The patch kernel is stored for normalised images all the
    same: trained on 0..255, its small numbers would take steps 255 times too large.

    Args:
        model: the folded `ViT`, its pixel normalisation left out (`fold(..., pixels=False)`).
        profile: name of the profile.
    """

    def __init__(self, model, profile, name=None, dtype=None, trainable=True):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.model = model
        self.profile = profile
        self.preprocessing = model.preprocessing
        self.image_size, self.classes = model.image_size, model.classes
        self._observe = None
        self._pixel_scale, self._pixel_mean = (
            rows.astype("float32") for rows in pixel_rows(model, self.preprocessing)
        )
        self.quantizers = {}
        for layer_name, layer in quantizable_layers(model):
            for role, kind in _kinds(layer_name, layer, profile_named(profile, quantized=True)).items():
                key = f"{layer_name}.{role}"
                self.quantizers[key] = FakeQuantizer(kind, name=key)
            layer.quantize = functools.partial(self._quantize, layer_name)
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

    def _quantize(self, name, role, x):
        """The `quantize` hook of every layer: a fake quantizer where there is one."""
        if name == PATCHES and role == "kernel":
            x = x / self._pixel_scale[:, None]
        key = f"{name}.{role}"
        if self._observe is not None:
            self._observe(key, x)
        elif key in self.quantizers:
            x = self.quantizers[key](x)
        if name == PATCHES and role == "output":
            kernel = self._quantize(PATCHES, "kernel", self.model.patches.projection.kernel)
            x = x - ops.matmul(self._pixel_mean, kernel)
        return x

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
        seen = {key: [] for key, quantizer in self.quantizers.items() if quantizer.has_trained_range}

        def observe(key, x):
            if key in seen:
                seen[key].append((float(ops.min(x)), float(ops.max(x))))

        self._observe = observe
        try:
            for start in range(0, len(images), batch_size):
                self.model(images[start : start + batch_size].astype("float32"))
        finally:
            self._observe = None
        for key, ranges in seen.items():
            self.quantizers[key].set_range(*np.mean(ranges, axis=0))

    def deploy(self):
        """What the exporter needs: (folded `ViT` with rounded kernels, ranges).

        The ViT takes raw pixels and has no fake quantizers; every kernel holds exactly the
        values that int8 can hold. `ranges` maps "block_0.attention.query.input" to (low, high).
        """
        plain = ViT.from_config({**self.model.get_config(), "preprocessing": RAW_PIXELS})
        plain.set_weights(self.model.get_weights())
        for name, layer in quantizable_layers(plain):
            if isinstance(layer, Linear):
                layer.kernel.assign(self._quantize(name, "kernel", layer.kernel))
        rounded = ops.convert_to_numpy(plain.patches.projection.kernel).astype("float64")
        subtract_from_positions(plain, self._pixel_mean.astype("float64") @ rounded)
        ranges = {key: quantizer.get_range() for key, quantizer in self.quantizers.items()}
        return plain, {key: value for key, value in ranges.items() if value is not None}

    def get_config(self):
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "profile": self.profile,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


def quantizable_layers(model):
    """Yield (dotted name, layer) for every layer of `model` that has a `quantize` hook."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, Linear):
            path = layer.kernel.path.removesuffix("/kernel")
        elif isinstance(layer, Attention):
            path = layer.query.kernel.path.removesuffix("/query/kernel")
        else:
            continue
        yield path.removeprefix(f"{model.name}/").replace("/", "."), layer


def _kinds(name, layer, profile):
    """Role -> kind of fake quantizer for one layer."""
    if isinstance(layer, Attention):
        return {"scores": "range", "probabilities": "range"} if profile.activations == "static" else {}
    if profile.activations == "token" or name.startswith("head"):
        # The head is a sliver of the time, and its logits decide: it keeps the finer rounding.
        return {"input": "token", "kernel": "weight"}
    return {
        "input": "pixels" if name == PATCHES else "range",
        "kernel": "weight",
        # Keys and values are the right-hand sides of the attention's matmuls.
        "output": "symmetric_range" if name.endswith((".key", ".value")) else "range",
    }
