"""`Attention`: every query looks at every token and takes a weighted mean of their values."""

import math

import keras
from keras import ops

from keras_vit.errors import InputError
from keras_vit.layers.linear import Linear, untouched


@keras.saving.register_keras_serializable("keras_vit")
class Attention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, equation 1).

        softmax(Q K^T / sqrt(d)) V, with Q = queries W_q, K = tokens W_k, V = tokens W_v

    Queries [B, M, D] and tokens [B, N, D] give [B, M, D]; self-attention is `layer(x, x)`.
    The softmax runs in float32. `quantize` is the hook of `Linear`, here for the roles
    "scores" (Q K^T) and "probabilities" (after the softmax).

    Args:
        heads: number of heads; must divide D.
        folded: True when 1/sqrt(d) lives in W_q and the biases of keys and values in the
            output projection (see `keras_vit.export.fold`): those parameters do not exist then.
    """

    def __init__(self, heads, folded=False, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.folded = folded
        self.quantize = untouched

    def build(self, queries_shape, tokens_shape):
        width = queries_shape[-1]
        if width % self.heads:
            raise InputError(f"tokens of width {width} cannot be split into {self.heads} equal heads.")
        self.scale = 1.0 if self.folded else 1.0 / math.sqrt(width // self.heads)

        def projection(name, use_bias=True):
            layer = Linear(width, use_bias=use_bias, dtype=self.dtype_policy, name=name)
            layer.build((None, None, width))
            return layer

        self.query = projection("query")
        self.key = projection("key", use_bias=not self.folded)
        self.value = projection("value", use_bias=not self.folded)
        self.output_projection = projection("output")

    def call(self, queries, tokens):
        (_, m, width), n = queries.shape, tokens.shape[1]

        def split(x, length):  # [B, length, D] -> [B, heads, length, D / heads]
            x = ops.reshape(x, (-1, length, self.heads, width // self.heads))
            return ops.transpose(x, (0, 2, 1, 3))

        q, k, v = split(self.query(queries), m), split(self.key(tokens), n), split(self.value(tokens), n)
        scores = self.quantize("scores", ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        scores = ops.cast(scores, "float32")
        if not self.folded:
            scores = scores * self.scale
        probabilities = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        context = ops.matmul(self.quantize("probabilities", probabilities), v)
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (-1, m, width))
        return self.output_projection(context)

    def compute_output_shape(self, queries_shape, tokens_shape):
        return queries_shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "folded": self.folded}
