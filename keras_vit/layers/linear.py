"""`Linear` and `Convolution`: the layers that multiply with a kernel."""

from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Size, Tensor, boolean, integer
from keras_vit.layers.quantization import Quantizable, Roles

LINEAR_ROLES = Roles(
    token={"input": "token", "kernel": "weight"},
    mixed={"input": "token", "kernel": "weight"},
    static={"input": "range", "kernel": "weight", "output": "range"},
    full={"kernel": "weight", "output": "range"},  # the input has the range of the output that it is
)
# For the small part of a model that decides about its logits: it costs little to keep these true.
ACCURATE_ROLES = Roles(
    token={"input": "token", "kernel": "int8_weight"},
    mixed={"input": "token", "kernel": "int8_weight"},
    static={"input": "token", "kernel": "int8_weight"},
    full=LINEAR_ROLES.full,
)


@keras.saving.register_keras_serializable("keras_vit")
class Linear(Quantizable, keras.layers.Layer):
    """y = x W + b over the last axis.

    Input [..., inputs], output [..., units]. The roles of its tensors for quantization (see
    `layers.quantization`) are "input", "kernel", "product" (before the bias, if there is one) and "output".

    Args:
        units: length of the output's last axis.
        use_bias: whether b exists.
        kernel_initializer, bias_initializer: as in Keras.
    """

    roles = LINEAR_ROLES

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        bias_initializer: str | keras.initializers.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = integer("units", units, at_least=1)
        self.use_bias = boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer=self.kernel_initializer, name="kernel"
        )
        self.bias = (
            self.add_weight(shape=(self.units,), initializer=self.bias_initializer, name="bias")
            if self.use_bias
            else None
        )

    def call(self, x: Tensor) -> Tensor:
        x = self.fake_quantize("input", x)
        y = ops.matmul(x, self.fake_quantize("kernel", self.kernel))
        if self.bias is not None:
            y = ops.add(self.fake_quantize("product", y), self.bias)
        return self.fake_quantize("output", y)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable("keras_vit")
class Convolution(Quantizable, keras.layers.Conv2D):
    """Keras' Conv2D with the roles "input", "kernel" and "output", which is what the activation gives."""

    # No runtime takes a range for each image at run time. The input is the output of the convolution before,
    # pooled, and LiteRT's pooling keeps the range.
    roles = Roles(
        static={"kernel": "int8_weight", "output": "range"}, full={"kernel": "int8_weight", "output": "range"}
    )

    def __init__(self, filters: int, kernel_size: Size, **kwargs: Any) -> None:
        super().__init__(filters=filters, kernel_size=kernel_size, **kwargs)

    def call(self, x: Tensor) -> Tensor:
        kernel = self.fake_quantize("kernel", self.kernel)
        y = ops.conv(
            self.fake_quantize("input", x), kernel, self.strides, self.padding, data_format=self.data_format
        )
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return self.fake_quantize("output", self.activation(y))
