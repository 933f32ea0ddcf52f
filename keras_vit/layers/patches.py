"""`Patches`: an image becomes a sequence of tokens, one for each patch."""

import keras
from keras import ops

from keras_vit.config import pair
from keras_vit.layers.linear import Linear


@keras.saving.register_keras_serializable("keras_vit")
class Patches(keras.layers.Layer):
    """Cuts an image into patches and projects each to a token.

    Images [B, H, W, C] become tokens [B, rows * columns, width], row by row. This is the
    strided convolution of Dosovitskiy et al. 2020 (section 3.1), written as a reshape and one
    matrix product: the same function, and what a phone's matmul kernels run fastest. The
    kernel [h * w * C, width] is the convolution's [h, w, C, width], flattened.

    Args:
        patch_size: (h, w) in pixels, or one integer.
        width: length of a token.
        use_bias: whether the projection has one; the positions can hold it as well.
    """

    def __init__(self, patch_size, width, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = pair(patch_size, "patch_size")
        self.width = width
        self.use_bias = use_bias
        self.projection = Linear(
            width,
            use_bias=use_bias,
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name="projection",
        )

    def build(self, input_shape):
        (h, w), channels = self.patch_size, input_shape[-1]
        self.projection.build((None, None, h * w * channels))

    def call(self, images):
        (h, w), (_, height, width, channels) = self.patch_size, images.shape
        rows, columns = height // h, width // w
        # [B * rows, h, columns, w * C]: four axes are enough, since w and C stay together.
        x = ops.reshape(images, (-1, h, columns, w * channels))
        x = ops.transpose(x, (0, 2, 1, 3))
        x = ops.reshape(x, (-1, rows * columns, h * w * channels))
        return self.projection(x)

    def compute_output_shape(self, input_shape):
        rows, columns = input_shape[1] // self.patch_size[0], input_shape[2] // self.patch_size[1]
        return (input_shape[0], rows * columns, self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": list(self.patch_size),
            "width": self.width,
            "use_bias": self.use_bias,
        }
