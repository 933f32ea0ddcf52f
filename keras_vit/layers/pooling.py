"""Pooling: from a sequence of tokens to one vector."""

from typing import Any

import keras
from keras import ops

from keras_vit._compat import flatten_layers
from keras_vit.config import Shape, Tensor, boolean, integer, positive
from keras_vit.errors import one_of
from keras_vit.layers.attention import Attention
from keras_vit.layers.linear import ACCURATE_ROLES, Linear
from keras_vit.layers.masks import ExplicitMask, token_mask
from keras_vit.layers.mlp import mlp_for
from keras_vit.layers.norm import LayerNorm
from keras_vit.old_names import Renamed

POOLINGS = ("cls", "mean", None)


@keras.saving.register_keras_serializable("keras_vit")
class Pooling(ExplicitMask, keras.layers.Layer):
    """Ends a token sequence: [B, N, D] -> [B, D], or [B, N - prefix, D] for None.

    With a mask [B, N] (True = real), "mean" averages the real tokens (zeros when there is none), and
    None gives zeros for the others.

    Args:
        pool_type: "cls" takes the first token, "mean" averages the tokens after the prefix, None keeps them.
            (`kind` before version 0.2; saved models that have it still load.)
        prefix: leading tokens that are no patches.
    """

    def __init__(self, pool_type: str | None, prefix: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_type = one_of("pooling", pool_type, POOLINGS)
        self.prefix = integer("prefix", prefix, at_least=0)

    def call(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pool_type == "cls":
            # A reshape, not tokens[:, 0]: a slice that drops an axis is no operator of XNNPACK.
            return ops.reshape(tokens[:, :1], (-1, tokens.shape[2]))
        if mask is not None:
            mask = ops.expand_dims(token_mask(mask, *tokens.shape[:2])[:, self.prefix :], 2)
        tokens = tokens[:, self.prefix :] if self.prefix else tokens
        if mask is None:
            return ops.mean(tokens, axis=1) if self.pool_type == "mean" else tokens
        tokens = ops.where(mask, tokens, 0)
        if self.pool_type is None:
            return tokens
        count = ops.maximum(ops.sum(ops.cast(mask, "float32"), axis=1), 1.0)
        return ops.cast(ops.sum(ops.cast(tokens, "float32"), axis=1) / count, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if self.pool_type is None:
            return (input_shape[0], input_shape[1] - self.prefix, input_shape[2])
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict:
        return {**super().get_config(), "pool_type": self.pool_type, "prefix": self.prefix}

    @classmethod
    def from_config(cls, config: dict) -> "Pooling":
        if "kind" in config:
            config = {**config, "pool_type": config["kind"]}
            del config["kind"]
        return super().from_config(config)


@keras.saving.register_keras_serializable("keras_vit")
class AttentionPooling(Renamed, ExplicitMask, keras.layers.Layer):
    """A learned query attends to the tokens: [B, N, D] -> [B, D] (Zhai et al. 2022, arXiv:2106.04560).

        y = Attention(probe, tokens);  y + Mlp(LayerNorm(y))

    Args:
        num_heads: attention heads.
        mlp_width: hidden width of the MLP.
        mlp: "gelu", "gelu_tanh" or "swiglu".
        prefix: leading tokens that are no patches; they are left out.
        epsilon: of the norm.
        attention: dictionary of further arguments of `Attention`: scale, key_bias, value_bias, ...
        affine: of the norm, see `LayerNorm`.
    """

    of_folded = ("attention", "affine")

    def __init__(
        self,
        num_heads: int,
        mlp_width: int,
        mlp: str = "gelu",
        prefix: int = 0,
        epsilon: float = 1e-6,
        attention: dict | None = None,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.mlp_width, self.mlp_kind = num_heads, mlp_width, mlp
        self.prefix, self.epsilon = integer("prefix", prefix, at_least=0), positive("epsilon", epsilon)
        self.attention_options, self.affine = dict(attention or {}), boolean("affine", affine)
        self.attention = Attention(
            num_heads, **self.attention_options, dtype=self.dtype_policy, name="attention"
        )
        self.norm = LayerNorm(epsilon, affine, dtype=self.dtype_policy, name="norm")
        self.mlp = mlp_for(mlp, mlp_width, dtype=self.dtype_policy, name="mlp")

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        self.probe = self.add_weight(
            shape=(1, 1, width), initializer=keras.initializers.GlorotUniform(), name="probe"
        )
        self.attention.build((None, 1, width), input_shape)
        self.norm.build((None, 1, width))
        self.mlp.build((None, 1, width))
        self.attention.float_products = True
        for layer in flatten_layers(self):
            if isinstance(layer, Linear):
                layer.roles = ACCURATE_ROLES

    def call(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = token_mask(mask, *tokens.shape[:2])[:, self.prefix :] if mask is not None else None
        tokens = tokens[:, self.prefix :] if self.prefix else tokens
        y = self.attention(ops.zeros_like(tokens[:, :1]) + self.probe, tokens, mask=mask)
        y = y + self.mlp(self.norm(y))
        return ops.reshape(y, (-1, tokens.shape[2]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "mlp": self.mlp_kind,
            "prefix": self.prefix,
            "epsilon": self.epsilon,
            "attention": self.attention_options,
            "affine": self.affine,
        }
