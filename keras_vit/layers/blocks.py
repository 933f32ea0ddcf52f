"""The encoder block and its MLP."""

import keras
from keras import ops

from keras_vit.layers.attention import Attention
from keras_vit.layers.linear import Linear
from keras_vit.layers.norm import LayerNorm


@keras.saving.register_keras_serializable("keras_vit")
class Mlp(keras.layers.Layer):
    """GELU(x W_1 + b_1) W_2 + b_2, token by token: [..., D] -> [..., D].

    GELU is the exact one (with erf), as in the PyTorch checkpoints.

    Args:
        hidden: width in the middle.
        dropout: rate after the activation.
    """

    def __init__(self, hidden, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.dropout = dropout
        self.expand = Linear(hidden, dtype=self.dtype_policy, name="expand")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")

    def build(self, input_shape):
        width = input_shape[-1]
        self.contract = Linear(width, dtype=self.dtype_policy, name="contract")
        self.expand.build((None, None, width))
        self.contract.build((None, None, self.hidden))

    def call(self, x, training=None):
        x = ops.gelu(self.expand(x), approximate=False)
        return self.contract(self.drop(x, training=training))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden, "dropout": self.dropout}


@keras.saving.register_keras_serializable("keras_vit")
class EncoderBlock(keras.layers.Layer):
    """Pre-norm transformer block (Dosovitskiy et al. 2020, equations 2 and 3).

        x = x + Attention(LayerNorm(x));  x = x + Mlp(LayerNorm(x))

    Tokens [B, N, D] -> [B, N, D], or [B, rows, D] with `rows`.

    Args:
        heads: attention heads.
        mlp_width: hidden width of the MLP.
        dropout: rate inside the MLP.
        folded: see `ViTConfig.folded`.
    """

    def __init__(self, heads, mlp_width, dropout=0.0, folded=False, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.mlp_width, self.dropout, self.folded = heads, mlp_width, dropout, folded
        policy = self.dtype_policy
        self.norm_1 = LayerNorm(affine=not folded, dtype=policy, name="norm_1")
        self.attention = Attention(heads, folded=folded, dtype=policy, name="attention")
        self.norm_2 = LayerNorm(affine=not folded, dtype=policy, name="norm_2")
        self.mlp = Mlp(mlp_width, dropout=dropout, dtype=policy, name="mlp")

    def build(self, input_shape):
        for layer in (self.norm_1, self.norm_2, self.mlp):
            layer.build(input_shape)
        self.attention.build(input_shape, input_shape)

    def call(self, tokens, rows=None, training=None):
        """`rows`: compute only that many leading tokens; the rest are looked at, not updated."""
        y = self.norm_1(tokens)
        if rows is None:
            x = tokens + self.attention(y, y)
        else:
            x = tokens[:, :rows] + self.attention(y[:, :rows], y)
        return x + self.mlp(self.norm_2(x), training=training)

    def compute_output_shape(self, input_shape, rows=None):
        return input_shape if rows is None else (input_shape[0], rows, input_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "mlp_width": self.mlp_width,
            "dropout": self.dropout,
            "folded": self.folded,
        }
