"""`Pooling`: from a sequence of tokens to one vector."""

import keras
from keras import ops

from keras_vit.config import POOLINGS
from keras_vit.errors import one_of


@keras.saving.register_keras_serializable("keras_vit")
class Pooling(keras.layers.Layer):
    """Ends a token sequence: [B, N, D] -> [B, D] (unchanged for None).

    Args:
        kind: "cls" takes the first token, "mean" averages all tokens, None keeps them.
    """

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = one_of("pooling", kind, POOLINGS)

    def call(self, tokens):
        if self.kind == "cls":
            # A reshape, not tokens[:, 0]: a slice that drops an axis is no operator of XNNPACK.
            return ops.reshape(tokens[:, :1], (-1, tokens.shape[2]))
        return ops.mean(tokens, axis=1) if self.kind == "mean" else tokens

    def compute_output_shape(self, input_shape):
        return input_shape if self.kind is None else (input_shape[0], input_shape[2])

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}
