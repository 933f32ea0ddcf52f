"""`LayerNorm` in the form that survives quantization and folding."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_vit")
class LayerNorm(keras.layers.Layer):
    """(x - mean) / sqrt(var + epsilon) * scale + shift over the last axis, in float32.

    Ba et al. 2016 (arXiv:1607.06450). Keras' own layer computes x * a + (b - mean * a): two
    large products that cancel, which loses digits in low precision. Epsilon is 1e-6 in every
    published ViT checkpoint.

    Args:
        epsilon: added to the variance.
        affine: whether scale and shift exist.
    """

    def __init__(self, epsilon=1e-6, affine=True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.affine = affine

    def build(self, input_shape):
        if self.affine:
            shape = (input_shape[-1],)
            self.scale = self.add_weight(shape=shape, initializer="ones", name="scale", dtype="float32")
            self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift", dtype="float32")

    def call(self, x):
        x = ops.cast(x, "float32")
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        y = centred * ops.rsqrt(variance + self.epsilon)
        if self.affine:
            y = y * ops.cast(self.scale, "float32") + ops.cast(self.shift, "float32")
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "affine": self.affine}
