"""Fake quantization: tensors rounded as the phone will round them, in a model that still trains.

`FakeQuantizer` is a Keras 3 layer around a quantizer of tensorflow-model-optimization (tfmot).
These schemes are all that a ViT needs:

- "weight": symmetric int8 for each output channel, s = max|w| / 127 (tfmot LastValueQuantizer);
- "weight4": the same with int4, s = max|w| / 7;
- "weight4_block": int4 with a scale for every 32 inputs of each output channel (ours, LiteRT's arithmetic);
- "range": int8 with a moving average of the tensor's range (tfmot MovingAverageQuantizer);
- "symmetric_range": the same with zero point 0, range (-128 s, 127 s): what XNNPACK demands of
  the right-hand side of a batched matmul (keys and values);
- "biased_range": "range" of scores with a mask added, and with room for the masked ones (`MASKED_MARGIN`);
- "inverse_range": "range" of 1 / deviation, tokens that are zero left out (`ZERO_TOKEN_INVERSE`);
- "pixels": the fixed range 0..255, exact for 8-bit images (tfmot FixedQuantizer);
- "image": the fixed range of normalised images, for stems that need those (tfmot FixedQuantizer);
- "constant": int8 with the extremes of a tensor that is no input: positions (tfmot LastValueQuantizer);
- "probability": the fixed range 0..255/256, which LiteRT's int8 softmax always has;
- "token": a range for each token, taken while running (ours, LiteRT's arithmetic).
"""

import contextlib
import functools
import os

import keras
import numpy as np
import tensorflow as tf

from keras_vit.errors import NotInstalled
from keras_vit.export._compat import tfmot_quantizers
from keras_vit.layers.masks import MASK_BIAS

BLOCK = 32  # inputs that share a scale in "weight4_block"
# A masked score (of -30000) need only be so far below the lowest of the others that int8 softmax, which
# counts in 1/256, makes 0 of it: e^-8 = 0.09 / 256. One range for both then loses few of its steps.
MASKED_MARGIN = 8.0
# 1 / sqrt(epsilon) is 1000: a number from here on is that of a masked token, all 0, and is multiplied by 0. A
# range with it would round those of the others, around 1, to 0.
ZERO_TOKEN_INVERSE = 900.0
FIXED = {"pixels": (0.0, 255.0), "probability": (0.0, 255 / 256)}


@functools.cache
def _tfmot():
    """tfmot's quantizer classes, plus ours written on the same interface."""
    # Importing tfmot sets TF_USE_LEGACY_KERAS=1, for this process and its children: it would
    # give the next `import keras` of a child another library. Put it back.
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    with contextlib.suppress(ImportError):
        import keras_cv  # noqa: F401  (keras-cv chooses its Keras when imported: it must come first)
    try:
        quantizers = tfmot_quantizers()
    except ImportError:
        raise NotInstalled("quantization", "tensorflow-model-optimization") from None
    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = before

    class PerTokenQuantizer(quantizers.Quantizer):
        """LiteRT's run-time quantization of the left-hand side of a FULLY_CONNECTED.

        For each vector along the last axis: lo = min(x, 0), hi = max(x, 0),
        s = (hi - lo) / 255, z = round(-lo / s) - 128. The gradient passes straight through.
        """

        def build(self, tensor_shape, name, layer):
            return {}

        def __call__(self, inputs, training, weights, **kwargs):
            low = tf.minimum(tf.reduce_min(inputs, axis=-1, keepdims=True), 0.0)
            high = tf.maximum(tf.reduce_max(inputs, axis=-1, keepdims=True), 0.0)
            # An all-zero token has no range; any scale serves it.
            scale = tf.where(high > low, (high - low) / 255.0, tf.ones_like(low))
            zero = tf.round(-low / scale) - 128.0
            rounded = (tf.clip_by_value(tf.round(inputs / scale) + zero, -128.0, 127.0) - zero) * scale
            return inputs + tf.stop_gradient(rounded - inputs)

        def get_config(self):
            return {}

    class BlockQuantizer(quantizers.Quantizer):
        """int4 weights with a scale for each block of 32 inputs, rounded to bfloat16 as in the file."""

        def build(self, tensor_shape, name, layer):
            return {}

        def __call__(self, inputs, training, weights, **kwargs):
            blocks = tf.reshape(inputs, (-1, BLOCK, inputs.shape[-1]))
            most = tf.reduce_max(tf.abs(blocks), axis=1, keepdims=True)
            scale = tf.cast(tf.cast(most / 7.0, tf.bfloat16), tf.float32)
            scale = tf.where(scale > 0.0, scale, tf.ones_like(scale))
            rounded = tf.clip_by_value(tf.round(blocks / scale), -7.0, 7.0) * scale
            return inputs + tf.stop_gradient(tf.reshape(rounded, tf.shape(inputs)) - inputs)

        def get_config(self):
            return {}

    def weights(bits):
        return quantizers.LastValueQuantizer(bits, per_axis=True, symmetric=True, narrow_range=True)

    def fixed(low, high):
        return quantizers.FixedQuantizer(8, init_min=low, init_max=high, narrow_range=False)

    def moving():
        return quantizers.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)

    return {
        "weight": lambda: weights(8),
        "weight4": lambda: weights(4),
        "weight4_block": BlockQuantizer,
        "range": moving,
        "biased_range": moving,
        "inverse_range": moving,
        "symmetric_range": lambda: quantizers.MovingAverageQuantizer(
            8, per_axis=False, symmetric=True, narrow_range=False
        ),
        "pixels": fixed,
        "image": fixed,
        "probability": fixed,
        "constant": lambda: quantizers.LastValueQuantizer(
            8, per_axis=False, symmetric=False, narrow_range=False
        ),
        "token": PerTokenQuantizer,
    }


def image_limits(low, high):
    """The range [low, high] of normalised images, a little wider than it is: 254 steps for 256 values.

    With 255 steps, and a mean of 0.5, every pixel would lie in the middle between two of them, where
    rounding is a toss-up.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    return low, high + (high - low) / 254


def _with_room(scores):
    """Flat `scores`, masked ones raised to `MASKED_MARGIN` below the lowest others; that number once more."""
    flat = tf.reshape(scores, (-1,))
    lowest = tf.minimum(tf.reduce_min(tf.where(flat > MASK_BIAS / 2, flat, 0.0)), 0.0)
    floor = tf.stop_gradient(lowest) - MASKED_MARGIN
    return tf.concat([tf.maximum(flat, floor), [floor]], axis=0)


class _VariablesOf:
    """What tfmot takes for a Keras 2 layer: it only ever calls `add_weight`."""

    def __init__(self, layer):
        self.layer = layer

    def add_weight(self, name, initializer=None, trainable=False, shape=None):
        if shape is None:
            shape = ()
        elif isinstance(shape, int):
            shape = (shape,)
        # `initializer` is a Keras 2 object, which Keras 3 refuses: give it the value instead.
        value = getattr(initializer, "value", 0.0)
        return self.layer.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            dtype="float32",
        )


class FakeQuantizer(keras.layers.Layer):
    """A Keras 3 layer that rounds its input as int8 would: same shape and dtype out as in.

    Args:
        scheme: one of those in this module's first lines.
        name: a name that tells where it sits, e.g. "block_0.attention.query.input".
        limits: (low, high) of the scheme "image".
    """

    def __init__(self, scheme, name=None, limits=None, **kwargs):
        super().__init__(name=name, dtype="float32", autocast=False, **kwargs)
        self.scheme = scheme
        self.limits = FIXED.get(scheme, limits if scheme == "image" else None)
        self.quantizer = _tfmot()[scheme](*self.limits or ())
        self.ranges = {}

    def build(self, input_shape):
        self.ranges = self.quantizer.build(tuple(input_shape), "range", _VariablesOf(self)) or {}

    def call(self, x, training=None):
        # A weight's range is a function of the weight as it is now, also at inference: the range
        # kept from the last training step would be one update behind.
        training = True if self.is_of_weights else bool(training)
        ranges = {key: variable.value for key, variable in self.ranges.items()}
        y = tf.cast(x, "float32")
        if self.scheme == "biased_range":
            y = self.quantizer(_with_room(y), training, ranges)[:-1]
            y = tf.reshape(y, tf.shape(x))
        else:
            if self.scheme == "inverse_range":
                highest = tf.reduce_max(tf.where(y < ZERO_TOKEN_INVERSE, y, 0.0))
                y = tf.minimum(y, tf.maximum(highest, ranges["max_var"]))
            y = self.quantizer(y, training, ranges)
        return tf.cast(y, x.dtype)

    @property
    def is_of_weights(self):
        return self.scheme.startswith("weight") or self.scheme == "constant"

    @property
    def has_trained_range(self):
        return self.scheme.endswith("range")

    def observed(self, x):
        """The numbers of the array x, as it arrives here, that a range has to hold."""
        if self.scheme == "biased_range":
            return np.append(x[x > MASK_BIAS / 2], 0.0)
        return np.append(x[x < ZERO_TOKEN_INVERSE], 0.0) if self.scheme == "inverse_range" else x

    def set_range(self, low, high):
        """Start the moving average from the range [low, high] of a calibration pass."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if self.scheme == "biased_range":
            low -= MASKED_MARGIN
        if high == low:
            high = 1.0  # a tensor that was always zero: any range but an empty one
        if self.scheme == "symmetric_range":
            step = max(-low / 128.0, high / 127.0)
            low, high = -128.0 * step, 127.0 * step
        self.ranges["min_var"].assign(low)
        self.ranges["max_var"].assign(high)

    def get_range(self):
        """(low, high) as floats, or None for schemes whose range is not a trained constant."""
        if self.limits is not None:
            return self.limits
        if not self.has_trained_range:
            return None
        return float(self.ranges["min_var"].value), float(self.ranges["max_var"].value)
