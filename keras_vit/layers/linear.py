"""`Linear` and `Convolution`: the places where values meet weights, with the hook for quantization."""

import keras
from keras import ops

from keras_vit.config import boolean, integer


def identity(role, tensor):
    """The default `fake_quantize` hook: leaves every tensor as it is."""
    return tensor


@keras.saving.register_keras_serializable("keras_vit")
class Linear(keras.layers.Layer):
    """y = x W + b over the last axis.

    Input [..., inputs], output [..., units]. `fake_quantize` is a hook for quantization-aware
    training: `keras_vit.export` replaces it by a function (role, tensor) -> tensor that is
    called with the roles "input", "kernel", "product" (before the bias, if there is one) and "output". It is
    not part of the config.

    Args:
        units: length of the output's last axis.
        use_bias: whether b exists.
        kernel_initializer, bias_initializer: as in Keras.
    """

    def __init__(
        self,
        units,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = integer("units", units, at_least=1)
        self.use_bias = boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.fake_quantize = identity

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer=self.kernel_initializer, name="kernel"
        )
        self.bias = (
            self.add_weight(shape=(self.units,), initializer=self.bias_initializer, name="bias")
            if self.use_bias
            else None
        )

    def call(self, x):
        x = self.fake_quantize("input", x)
        y = ops.matmul(x, self.fake_quantize("kernel", self.kernel))
        if self.bias is not None:
            y = ops.add(self.fake_quantize("product", y), self.bias)
        return self.fake_quantize("output", y)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable("keras_vit")
class Convolution(keras.layers.Conv2D):
    """Keras' Conv2D with the hook of `Linear`; the role "output" is what the activation gives."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fake_quantize = identity

    def call(self, x):
        kernel = self.fake_quantize("kernel", self.kernel)
        y = ops.conv(
            self.fake_quantize("input", x), kernel, self.strides, self.padding, data_format=self.data_format
        )
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return self.fake_quantize("output", self.activation(y))
