"""Pre-norm transformer blocks: `Block`, what all share, and `EncoderBlock` (self-attention)."""

from typing import Any

import keras

from keras_vit.config import Shape, Tensor, boolean, integer, positive
from keras_vit.errors import InputError, one_of
from keras_vit.layers import custom
from keras_vit.layers.attention import Attention
from keras_vit.layers.masks import ExplicitMask
from keras_vit.layers.mlp import mlp_for
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.quantization import Quantizable, Roles
from keras_vit.layers.remat import rematerialised
from keras_vit.layers.residual import LayerScale, StochasticDepth
from keras_vit.old_names import Renamed

ATTENTION_OPTIONS = (
    *("attention_type", "top_k", "qk_norm", "dropout", "fused"),
    *("scale", "average", "key_bias", "value_bias"),
)


class Block(Quantizable, Renamed, ExplicitMask, keras.layers.Layer):
    """What both blocks share: their arguments, and residual branches x + drop(scale(f(norm(x)))).

    Args:
        num_heads: attention heads.
        mlp_width: hidden width of the MLP.
        attention: dictionary of further arguments of `Attention`: attention_type, top_k, qk_norm,
            dropout, fused, scale, average, key_bias, value_bias.
        mlp: "gelu", "gelu_tanh" or "swiglu".
        dropout: rate inside the MLP.
        stochastic_depth: rate at which a branch is skipped in training.
        layer_scale: initial value of `LayerScale` on each branch; None for none.
        epsilon: of the norms.
        remat: compute the block again in the backward pass instead of keeping its values.
        affine, centre: of the norms, see `LayerNorm`.
    """

    of_folded = ("attention", "affine", "centre")

    def __init__(
        self,
        num_heads: int,
        mlp_width: int,
        attention: dict | None = None,
        mlp: str = "gelu",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        layer_scale: float | None = None,
        epsilon: float = 1e-6,
        remat: bool = False,
        affine: bool = True,
        centre: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.mlp_width = (
            integer("num_heads", num_heads, 1),
            integer("mlp width", mlp_width, 1),
        )
        if attention is not None and not isinstance(attention, dict):
            raise InputError(f"attention must be a dictionary of {ATTENTION_OPTIONS}, not {attention!r}.")
        self.attention_options = dict(attention or {})
        if "kind" in self.attention_options:  # before version 0.2
            self.attention_options["attention_type"] = self.attention_options.pop("kind")
        for option in self.attention_options:
            one_of("option of attention", option, ATTENTION_OPTIONS)
        self.mlp_kind, self.dropout, self.epsilon = mlp, dropout, positive("epsilon", epsilon)
        self.stochastic_depth, self.layer_scale = stochastic_depth, layer_scale
        self.remat = boolean("remat", remat)
        self.affine, self.centre = boolean("affine", affine), boolean("centre", centre)

    def _attention(self, name):
        return Attention(
            self.num_heads,
            **self.attention_options,
            epsilon=self.epsilon,
            dtype=self.dtype_policy,
            name=name,
        )

    def _mlp(self):
        return mlp_for(self.mlp_kind, self.mlp_width, self.dropout, dtype=self.dtype_policy, name="mlp")

    def _norm(self, name):
        return LayerNorm(self.epsilon, self.affine, self.centre, dtype=self.dtype_policy, name=name)

    def _branch(self, number):
        """The layers on the residual branch `number`, in order."""
        layers = []
        if self.layer_scale is not None:
            layers.append(LayerScale(self.layer_scale, dtype=self.dtype_policy, name=f"scale_{number}"))
        layers.append(StochasticDepth(self.stochastic_depth, dtype=self.dtype_policy, name=f"skip_{number}"))
        return layers

    @staticmethod
    def _run(branch, x, training):
        for layer in branch:
            x = layer(x, training=training) if isinstance(layer, StochasticDepth) else layer(x)
        return x

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "attention": self.attention_options,
            "mlp": self.mlp_kind,
            "dropout": self.dropout,
            "stochastic_depth": self.stochastic_depth,
            "layer_scale": self.layer_scale,
            "epsilon": self.epsilon,
            "remat": self.remat,
            "affine": self.affine,
            "centre": self.centre,
        }


@keras.saving.register_keras_serializable("keras_vit")
class EncoderBlock(Block):
    """Self-attention and MLP (Dosovitskiy et al. 2020, equations 2 and 3).

        x = x + Attention(LayerNorm(x));  x = x + Mlp(LayerNorm(x))

    Tokens [B, N, D] -> [B, N, D], or [B, num_queries, D] with `num_queries`. Arguments: see `Block`;
    `attention` and `mlp` may also be layers of your own, see `keras_vit.layers.custom`.

    The roles of its tensors for quantization are "sum_1" and "sum_2", after each branch.
    """

    roles = Roles(full={"sum_1": "range", "sum_2": "range"})

    __doc__ += Block.__doc__[Block.__doc__.index("\n\n    Args:") :]

    def __init__(
        self,
        num_heads: int,
        mlp_width: int,
        attention: dict | keras.layers.Layer | None = None,
        mlp: str | keras.layers.Layer = "gelu",
        **kwargs: Any,
    ) -> None:
        layers = {
            name: layer
            for name, layer in (("attention", attention), ("mlp", mlp))
            if isinstance(layer, keras.layers.Layer)
        }
        super().__init__(
            num_heads,
            mlp_width,
            None if "attention" in layers else attention,
            "gelu" if "mlp" in layers else mlp,
            **kwargs,
        )
        self.custom = tuple(layers)  # which of the two are the user's
        self.norm_1, self.attention = (
            self._norm("norm_1"),
            layers.get("attention") or self._attention("attention"),
        )
        self.branch_1 = self._branch(1)
        self.norm_2, self.mlp = self._norm("norm_2"), layers.get("mlp") or self._mlp()
        self.branch_2 = self._branch(2)

    def build(self, input_shape: Shape) -> None:
        for layer in (self.norm_1, self.norm_2, *self.branch_1, *self.branch_2):
            layer.build(input_shape)
        if "attention" in self.custom:
            custom.build(self.attention, input_shape)
        else:
            self.attention.build(input_shape, input_shape)
        if "mlp" in self.custom:
            custom.build(self.mlp, input_shape)
        else:
            self.mlp.build(input_shape)

    def call(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        num_queries: int | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """`mask`, `bias`, `rotary`: see `Attention`. `num_queries`: return only that many leading
        tokens, which attend to all of them."""

        def forward(tokens, bias):
            y = self.norm_1(tokens)
            x, queries, seen, offsets = tokens, y, mask, bias
            if num_queries is not None:
                x, queries = tokens[:, :num_queries], y[:, :num_queries]
                seen = mask[:, :num_queries] if mask is not None and len(mask.shape) == 3 else mask
                offsets = bias[..., :num_queries, :] if bias is not None else None
            if "attention" in self.custom:
                y = custom.call_layer(
                    self.attention, y, mask=mask, bias=bias, rotary=rotary, training=training
                )
                y = y if num_queries is None else y[:, :num_queries]
            else:
                y = self.attention(queries, y, mask=seen, bias=offsets, rotary=rotary, training=training)
            x = self.fake_quantize("sum_1", x + self._run(self.branch_1, y, training))
            y = custom.call_layer(self.mlp, self.norm_2(x), training=training)
            return self.fake_quantize("sum_2", x + self._run(self.branch_2, y, training))

        if self.remat and training:
            return rematerialised(self, forward, tokens, bias)
        return forward(tokens, bias)

    def get_config(self) -> dict:
        layers = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.custom}
        return {**super().get_config(), **layers}

    @classmethod
    def from_config(cls, config: dict) -> "EncoderBlock":
        saved = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("attention", "mlp")
            if isinstance(config.get(name), dict) and "class_name" in config[name]
        }
        return super().from_config({**config, **saved})

    def compute_output_spec(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        num_queries: int | None = None,
        training: bool | None = None,
    ) -> Any:
        shape = tokens.shape if num_queries is None else (tokens.shape[0], num_queries, tokens.shape[2])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
