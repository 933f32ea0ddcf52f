"""Quantization-aware training: `quantize_aware(model, profile)` gives a model for `fit`.

The model is folded first (`export.tflite.fold`), then fake quantizers take the place of `fake_quantize` in
its layers. What it computes is what the exported file will compute: what you train is what you ship.
Which tensor gets which quantizer is `quantization_spec`, in `export/quantization/spec.py`.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.examples import calibration_inputs
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.calibration import METHODS, checked_calibration, observed_range
from keras_vit.export.quantization.fake_quant import FakeQuantizer, image_limits
from keras_vit.export.quantization.spec import check_takes, quantizable_layers, quantization_spec
from keras_vit.export.tflite.fold import fold, from_raw, raw_pixels, takes_raw_pixels
from keras_vit.export.tflite.rewrites import REWRITES, pixel_rows, shift_patches
from keras_vit.layers import Convolution, Linear
from keras_vit.modalities import Modality
from keras_vit.modalities.pixels import ChecksArrays, RangeCheck, limits
from keras_vit.models.base import Model, shapes_of
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.transfer import variables_by_name

PATCHES = "patches.projection"  # the layer of a ViT that meets pixels


def quantize_aware(model, profile, calibration=None, protect=(), method="mean"):
    """A quantization-aware copy of `model`, for `compile` and `fit`.

    It takes what `model` takes (images normalised, unless it does that itself) and gives logits, so train it
    with the loss that `model` was trained with. Without further training it is the post-training quantization
    of `model`.

    Args:
        model: a `ViT` or `MultimodalViT` with a head.
        profile: the name of a quantized profile, e.g. "int8" or "int8_static" (see `export.profiles`).
        calibration: pictures from which trained ranges start, at least about a hundred, only for a
            static profile: an array [N, H, W, C] with values 0..255, a tf.data dataset, a folder or
            an `ImageData`. Of a `MultimodalViT` examples: {name: raw inputs [N, ...]} or `MultimodalData`.
            Without them, noise is used: train before you export then.
        protect: names of layers that stay float, or of what contains them, e.g. "block_0.mlp".
        method: how ranges follow from them: "mean" (of the batches' extremes), "minmax" or
            "percentile" (see `export.quantization.calibration`).

    Raises:
        InputError: unknown profile or layer, a model that is neither or that the profile does not
            take, inputs of another shape.
    """
    profile = profile_named(profile, quantized=True)
    if isinstance(model, QuantizeAware):
        raise InputError(
            f"this model is already quantization-aware ({model.profile}): give the float model it came from."
        )
    rewrites = list(REWRITES)
    if profile.activations == "full" and getattr(model, "class_tokens", 0):
        # Inside the projection int8 holds it with 32 bits, in the positions with 8. (Without class tokens
        # between the two, the converter moves it there in any case.)
        rewrites.remove("patch_bias")
    folded = fold(model, pixels=False, rewrites=rewrites)
    check_takes(profile, folded)
    aware = QuantizeAware(
        folded,
        profile.name,
        protect=protect,
        include_preprocessing=getattr(model, "include_preprocessing", False),
        name=f"{model.name}_{profile.name}",
    )
    if profile.has_trained_ranges:
        if calibration is None:
            aware.calibrate(_noise(model), method)
        else:
            aware.calibrate(calibration_inputs(calibration, model), method)
    return aware


def _noise(model):
    if isinstance(model, MultimodalViT):
        return dummy_inputs(model, 32)
    return {"image": np.random.default_rng(0).integers(0, 256, (32, *model.signature()["image"]["shape"]))}


@keras.saving.register_keras_serializable("keras_vit")
class QuantizeAware(RangeCheck, ChecksArrays, Model):
    """A folded ViT or MultimodalViT with fake quantizers in it. Made by `quantize_aware`.

    Images arrive as for the model it came from; normalised ones are turned back into the pixels
    that the exported file will see. The patch kernel is stored for normalised images all the
    same: trained on 0..255, its small numbers would take steps 255 times too large.

    Args:
        model: the folded model, its pixel normalisation left out (`fold(..., pixels=False)`).
        profile: name of the profile.
        protect: names of layers, or of what contains them, that stay float.
        calibration: what `calibrate` noted when the ranges were set.
        include_preprocessing: as in `ViT`.
    """

    def __init__(
        self,
        model,
        profile,
        protect=(),
        calibration=None,
        include_preprocessing=False,
        name=None,
        dtype=None,
        trainable=True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.model = model
        self.profile, self.protect, self.calibration = profile, tuple(protect), calibration
        self.num_classes = model.num_classes
        if not isinstance(model, MultimodalViT):
            self.preprocessing, self.image_size = model.preprocessing, model.image_size
            self.include_preprocessing = include_preprocessing
            model.range_checked = True  # what this model hands to it is another matter
        self._observe = None
        self._takes_pixels = takes_raw_pixels(model)
        if self._takes_pixels:
            self._pixel_scale, self._pixel_mean = (rows.astype("float32") for rows in pixel_rows(model))
        self.spec = quantization_spec(model, profile_named(profile, quantized=True), self.protect)
        self.quantizers = {
            key: FakeQuantizer(scheme, key, self._limits(key) if scheme == "image" else None)
            for key, scheme in self.spec.items()
        }
        for layer_name, layer in quantizable_layers(model):
            layer.fake_quantize = functools.partial(self._quantize, layer_name)
        self.build_now(shapes_of(self.input_signature()))

    def input_signature(self):
        return self.model.input_signature()

    def build(self, input_shape=None):
        if self.built:
            return
        # One eager pass over one made-up example builds each quantizer with the shape it meets.
        self.model(from_raw(dummy_inputs(self.model), self.model))
        self.built = True

    @property
    def activation(self):
        """That of the model it came from."""
        return self.model.activation

    @activation.setter
    def activation(self, activation):
        self.model.activation = activation

    def signature(self):
        """That of the model it came from."""
        return self.model.signature()

    def prepare(self, inputs):
        """As the model it came from does."""
        return ops.cast(inputs, "float32") if self.include_preprocessing else self.model.prepare(inputs)

    def __call__(self, inputs, *arguments, **options):
        self.check_range_of(inputs)
        return super().__call__(inputs, *arguments, **options)

    def check_range_of(self, inputs):
        """See `RangeCheck.check_range`."""
        if isinstance(self.model, MultimodalViT):
            self.model.check_range_of(inputs)
        else:
            self.check_range(inputs.get("image") if isinstance(inputs, dict) else inputs)

    def _limits(self, key):
        """The range of a quantizer of normalised pixels."""
        owner = self.model
        if isinstance(owner, MultimodalViT):
            owner = owner.modalities[key.split(".")[0]]
        return image_limits(*limits(owner.preprocessing))

    def call(self, inputs, training=None):
        if self.include_preprocessing:
            pixels = ops.cast(inputs, "float32")
            inputs = pixels if self._takes_pixels else self.model.prepare(pixels)
        elif self._takes_pixels:
            mean, std = (np.asarray(self.preprocessing[key], "float32") for key in ("mean", "std"))
            inputs = ops.cast(inputs, "float32") * (std * 255.0) + mean * 255.0
        return self.model(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if isinstance(self.model, MultimodalViT):
            loss = loss + self.model.prediction_loss(sample_weight)
        return loss

    def compute_output_shape(self, input_shape):
        return self.model.compute_output_shape(input_shape)

    def _quantize(self, name, role, x):
        """The `fake_quantize` hook of every layer: a fake quantizer where there is one."""
        if self._takes_pixels:
            if (name, role) == (PATCHES, "kernel"):
                x = x / self._pixel_scale[:, None]
            # The mean goes where it will be in the file: into the bias of the patches, or the positions.
            if (name, role) == (PATCHES, "output") and self.model.patches.use_bias:
                x = x - self._mean_patch()
            if (name, role) == ("positions", "table") and not self.model.patches.use_bias:
                is_patch = np.arange(x.shape[1])[:, None] >= self.model.class_tokens
                x = x - is_patch.astype("float32") * self._mean_patch()
        key = f"{name}.{role}"
        if self._observe is not None:
            self._observe(key, x)
        elif key in self.quantizers:
            x = self.quantizers[key](x)
        return x

    def _mean_patch(self):
        """What the rounded projection makes of a patch of mean pixels: [width]."""
        rounded = self._quantize(PATCHES, "kernel", self.model.patches.projection.kernel)
        return ops.matmul(self._pixel_mean, rounded)

    def calibrate(self, inputs, method="mean", batch_size=32):
        """Set every trained range from examples, and note from which in `calibration`.

        Args:
            inputs: {name: raw input [N, ...], pixels 0..255}; or just the images [N, H, W, C].
            method: see `export.quantization.calibration`.

        Raises:
            InputError: inputs of another shape, none, NaN; an unknown method.
        """
        inputs = inputs if isinstance(inputs, dict) else {"image": inputs}
        inputs, self.calibration = checked_calibration(inputs, self.model, method)
        seen = {key: [] for key, quantizer in self.quantizers.items() if quantizer.has_trained_range}

        def observe(key, x):
            if key in seen:
                seen[key].append(METHODS[method](self.quantizers[key].observed(ops.convert_to_numpy(x))))

        self._observe = observe
        try:
            for start in range(0, self.calibration["images"], batch_size):
                batch = {name: x[start : start + batch_size] for name, x in inputs.items()}
                if self._takes_pixels:
                    self.model(batch["image"].astype("float32"))
                else:
                    self.model(from_raw(batch, self.model))
        finally:
            self._observe = None
        for key, ranges in seen.items():
            self.quantizers[key].set_range(*observed_range(ranges, method))

    def deploy(self):
        """What the exporter needs: (folded model with rounded kernels, ranges).

        A ViT takes raw pixels, unless its stem pads them. There are no fake quantizers; every kernel holds
        exactly the values that int8 can hold. `ranges` maps "block_0.attention.query.input" to (low, high).
        """
        config = self.model.get_config()
        if self._takes_pixels:
            config["preprocessing"] = raw_pixels(self.model.config.channels)
        plain = type(self.model).from_config(config)
        plain.set_weights(self.model.get_weights())
        for name, layer in quantizable_layers(plain):
            if isinstance(layer, Linear | Convolution):
                layer.kernel.assign(self._quantize(name, "kernel", layer.kernel))
            elif isinstance(layer, Modality) and f"{name}.table" in self.quantizers:
                layer.table.assign(self._quantize(name, "table", layer.table))
        if self._takes_pixels:
            names = variables_by_name(plain)
            names = {
                key: names[key] for key in ("patches/projection/bias", "positions/table") if key in names
            }
            weights = {
                key: ops.convert_to_numpy(variable).astype("float64") for key, variable in names.items()
            }
            rounded = ops.convert_to_numpy(plain.patches.projection.kernel).astype("float64")
            shift_patches(weights, plain, -self._pixel_mean.astype("float64") @ rounded)
            for key, value in weights.items():
                names[key].assign(value)
        return plain, self.ranges

    @property
    def ranges(self):
        """{"block_0.attention.query.input": (low, high)} of all trained and fixed ranges."""
        found = {key: quantizer.get_range() for key, quantizer in self.quantizers.items()}
        return {key: value for key, value in found.items() if value is not None}

    def get_config(self):
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "profile": self.profile,
            "protect": list(self.protect),
            "calibration": self.calibration,
            "include_preprocessing": self.include_preprocessing,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})
