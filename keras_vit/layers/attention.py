"""`Attention`: every query looks at the tokens it may see and takes a weighted mean of their values."""

import math
from typing import Any

import keras
from keras import ops

from keras_vit.config import ATTENTIONS, Shape, Tensor, boolean, integer, positive, rate
from keras_vit.errors import InputError, one_of
from keras_vit.layers.linear import LINEAR_ROLES, Linear
from keras_vit.layers.masks import MASKED_SCORE, ExplicitMask, combine
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.positions.rotary import rotate
from keras_vit.layers.quantization import Quantizable, identity
from keras_vit.old_names import Renamed

SYMMETRIC = {"output": "symmetric_range"}
QUERY_ROLES = LINEAR_ROLES.with_roles(mixed={"output": "range"})
# Keys and values are the right-hand sides of the products.
VALUE_ROLES = LINEAR_ROLES.with_roles(mixed=SYMMETRIC, static=SYMMETRIC, full=SYMMETRIC)
OUTPUT_ROLES = LINEAR_ROLES.with_roles(full={"input": "range"})


def softmax(scores: Tensor) -> Tensor:
    """The softmax over the last axis. Keras warns of an axis of one, which for attention is no mistake."""
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


@keras.saving.register_keras_serializable("keras_vit")
class Attention(Quantizable, Renamed, ExplicitMask, keras.layers.Layer):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, equation 1).

        weights(scale Q K^T) V, with Q = queries W_q, K = tokens W_k, V = tokens W_v

    Queries [B, M, D] and tokens [B, N, D] give [B, M, D]; self-attention is `layer(x, x)`.
    The weights of a query over the keys that it sees, computed in float32, are

    - "soft": their softmax;
    - "hard": the softmax over its `top_k` best keys, all others 0; in training the gradient is that of
      "soft" (straight through, Bengio et al. 2013, arXiv:1308.3432);
    - "relu": relu(score) / number of keys seen (Wortsman et al. 2023, arXiv:2309.08586).

    A query that may see no key gets zeros. The roles of its tensors for quantization are "queries" and "keys"
    (as they enter Q K^T), "scores" (Q K^T), "biased" (the sum of "scores" and a bias), "probabilities" (the
    weights) and "context" (their product with V).

    Args:
        num_heads: number of heads; must divide D.
        attention_type: "soft", "hard" or "relu". (`kind` before version 0.2; both are taken.)
        top_k: number of keys for "hard".
        qk_norm: LayerNorm over each head's queries and keys (Dehghani et al. 2023, arXiv:2302.05442).
        dropout: rate on the weights, in training.
        epsilon: of those norms.
        fused: use `ops.dot_product_attention` for soft attention; None does where the backend has a
            fused kernel (JAX, PyTorch). The function is the same.
        scale: factor on the scores; None: 1/sqrt(d), d being the width of a head.
        average: whether "relu" divides by the number of keys seen.
        key_bias, value_bias: whether these projections have a bias.
    """

    of_folded = ("scale", "average", "key_bias", "value_bias")
    # What its quantization depends on besides its arguments, said by the model that it is a part of.
    uses_rotary = False  # whether queries and keys are rotated
    adds_bias = False  # whether a mask is added to the scores, see `masks.as_bias`
    constant_queries = False  # whether the queries are the same for all inputs
    float_products = False  # whether its products stay float, but in "full"

    def __init__(
        self,
        num_heads: int,
        attention_type: str = "soft",
        top_k: int | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
        epsilon: float = 1e-6,
        fused: bool | None = None,
        scale: float | None = None,
        average: bool = True,
        key_bias: bool = True,
        value_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        attention_type = kwargs.pop("kind", attention_type)
        super().__init__(**kwargs)
        self.num_heads = integer("num_heads", num_heads, at_least=1)
        self.attention_type = one_of("attention", attention_type, ATTENTIONS)
        if attention_type == "hard":
            integer("top_k, which hard attention needs,", top_k, at_least=1)
        elif top_k is not None:
            raise InputError(f"top_k={top_k!r} belongs to hard attention, not to {attention_type!r}.")
        self.top_k = top_k
        self.qk_norm = boolean("qk_norm", qk_norm)
        self.dropout = rate("attention dropout", dropout)
        self.epsilon = positive("epsilon", epsilon)
        if fused not in (None, True, False):
            raise InputError(f"fused must be True, False or None, not {fused!r}.")
        self.fused = fused
        self.fixed_scale = None if scale is None else positive("scale", scale)
        self.average = boolean("average", average)
        self.key_bias, self.value_bias = boolean("key_bias", key_bias), boolean("value_bias", value_bias)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")

    def build(self, queries_shape: Shape, tokens_shape: Shape) -> None:
        width = queries_shape[-1]
        if width % self.num_heads:
            raise InputError(f"tokens of width {width} cannot be split into {self.num_heads} equal heads.")
        usual = 1.0 / math.sqrt(width // self.num_heads)
        self.scale = usual if self.fixed_scale is None else self.fixed_scale

        def projection(name, inputs, use_bias=True):
            layer = Linear(width, use_bias=use_bias, dtype=self.dtype_policy, name=name)
            layer.build((None, None, inputs))
            return layer

        self.query = projection("query", width)
        self.key = projection("key", tokens_shape[-1], use_bias=self.key_bias)
        self.value = projection("value", tokens_shape[-1], use_bias=self.value_bias)
        self.output_projection = projection("output", width)
        rotated = self.qk_norm or self.uses_rotary  # then the outputs of two projections enter no product
        self.query.roles = LINEAR_ROLES if rotated else QUERY_ROLES
        self.key.roles = LINEAR_ROLES if rotated else VALUE_ROLES
        self.value.roles, self.output_projection.roles = VALUE_ROLES, OUTPUT_ROLES
        if self.qk_norm:
            self.query_norm = LayerNorm(self.epsilon, dtype=self.dtype_policy, name="query_norm")
            self.key_norm = LayerNorm(self.epsilon, dtype=self.dtype_policy, name="key_norm")
            for norm in (self.query_norm, self.key_norm):
                norm.build((None, None, None, width // self.num_heads))

    def call(
        self,
        queries: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        training: bool | None = None,
        return_scores: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            queries: [B, M, D].
            tokens: [B, N, D'].
            mask: boolean, True = may be seen: of tokens [B, N] or of pairs [B or 1, M, N].
            bias: added to the scores, [num_heads, M, N] or [B, num_heads, M, N], where any axis may be 1.
            rotary: (cos, sin), each [N, d] or [B, N, d]; the queries are the first M of the N tokens.
            return_scores: also return the weights, float32 [B, num_heads, M, N], before dropout.
        """
        m, width, n = ops.shape(queries)[1], queries.shape[-1], ops.shape(tokens)[1]
        visible = self._visible(mask, queries, tokens)
        if mask is not None and len(mask.shape) == 2:
            # 0 times the NaN of an unseen token would be NaN.
            tokens = ops.where(ops.transpose(visible, (0, 2, 1)), tokens, 0)

        def split(x, length):  # [B, length, D] -> [B, heads, length, D / num_heads]
            x = ops.reshape(x, (-1, length, self.num_heads, width // self.num_heads))
            return ops.transpose(x, (0, 2, 1, 3))

        q, k, v = split(self.query(queries), m), split(self.key(tokens), n), split(self.value(tokens), n)
        if self.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.scale != 1.0:
            q = q * self.scale  # before the product: fewer numbers to multiply
        if rotary is not None:
            cos, sin = rotary
            q, k = rotate(q, cos[..., :m, :], sin[..., :m, :]), rotate(k, cos, sin)
        if bias is not None and len(bias.shape) == 3:
            bias = ops.expand_dims(bias, 0)

        weights = None
        if self._can_fuse(training, return_scores):
            context = self._fused(q, k, v, visible, bias)
        else:
            if self.compute_dtype == "float16":
                q, k = ops.cast(q, "float32"), ops.cast(k, "float32")  # products beyond 65504 are normal
            q, k = self.fake_quantize("queries", q), self.fake_quantize("keys", k)
            scores = self.fake_quantize("scores", ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
            weights = self._weights(ops.cast(scores, "float32"), visible, bias, training)
            dropped = self.drop(ops.cast(weights, self.compute_dtype), training=training)
            dropped = self.fake_quantize("probabilities", dropped)
            context = self.fake_quantize("context", ops.matmul(dropped, v))
            context = ops.transpose(context, (0, 2, 1, 3))
        output = self.output_projection(ops.reshape(context, (-1, m, width)))
        if visible is not None:
            some = ops.any(visible, axis=-1, keepdims=True)  # [B or 1, M or 1, 1]
            output = ops.where(some, output, 0)
            if return_scores:
                weights = ops.where(ops.expand_dims(some, 1), weights, 0)
        return (output, weights) if return_scores else output

    def quantization_roles(self, family: str) -> dict[str, str]:
        if family == "full":
            scores = {"biased": "biased_range"} if self.adds_bias else {"scores": "range"}
            return {**scores, "probabilities": "probability" if self.attention_type == "soft" else "range"}
        if family == "token" or self.float_products:
            return {}
        # A product with what is a constant in the file stays float.
        roles = {} if self.constant_queries else {"scores": "range"}
        roles["probabilities"] = "range"
        if family == "mixed":
            roles["context"] = "range"  # in "static" that is the range of the next projection's input
        if self.qk_norm or self.uses_rotary:
            roles |= {"queries": "range", "keys": "symmetric_range"}
        return roles

    def _visible(self, mask, queries, tokens):
        """The mask as [B or 1, M or 1, N], after a look at its shape."""
        visible = combine(mask)
        if visible is not None:
            expected = (queries.shape[0], queries.shape[1], tokens.shape[1])
            fits = [
                given in (want, None) or want is None or (given == 1 and axis < 2)
                for axis, (given, want) in enumerate(zip(visible.shape, expected, strict=True))
            ]
            if not all(fits):
                raise InputError(
                    f"mask of shape {list(mask.shape)} for queries {list(queries.shape)} and tokens "
                    f"{list(tokens.shape)}: it must be [batch, {tokens.shape[1]}] or "
                    f"[batch, {queries.shape[1]}, {tokens.shape[1]}]."
                )
        return visible

    def _weights(self, scores, visible, bias, training):
        """Scores [B, num_heads, M, N] in float32 to weights; rows without a visible key are cleared later."""
        if bias is not None:
            scores = self.fake_quantize("biased", scores + ops.cast(bias, "float32"))
        if self.attention_type == "relu":
            weights = ops.relu(scores)
            if visible is None:
                return weights / scores.shape[-1] if self.average else weights
            visible = ops.expand_dims(visible, 1)
            weights = ops.where(visible, weights, 0.0)
            seen = ops.sum(ops.cast(visible, "float32"), axis=-1, keepdims=True)
            return weights / ops.maximum(seen, 1.0) if self.average else weights
        if visible is not None:
            scores = ops.where(ops.expand_dims(visible, 1), scores, MASKED_SCORE)
        weights = softmax(scores)
        if self.attention_type == "hard" and (scores.shape[-1] is None or self.top_k < scores.shape[-1]):
            # By index, not by threshold: equal scores must not let more than top_k keys in.
            best = ops.top_k(scores, self.top_k)[1]
            chosen = ops.any(ops.one_hot(best, scores.shape[-1], dtype="bool"), axis=-2)
            hard = softmax(ops.where(chosen, scores, MASKED_SCORE))
            weights = weights + ops.stop_gradient(hard - weights) if training else hard
        return weights

    def _can_fuse(self, training, return_scores):
        fused = self.fused if self.fused is not None else keras.backend.backend() in ("jax", "torch")
        plain = self.attention_type == "soft" and self.fake_quantize is identity and not return_scores
        # JAX has no such kernel for float16 on a CPU.
        return fused and plain and self.compute_dtype != "float16" and not (training and self.dropout)

    def _fused(self, q, k, v, visible, bias):
        """[B, M, num_heads, d], through the backend's kernel, which is not told of rows that see nothing."""
        if visible is not None:
            visible = ops.logical_or(visible, ops.logical_not(ops.any(visible, axis=-1, keepdims=True)))
            shape = (ops.shape(visible)[0], 1, ops.shape(q)[2], ops.shape(k)[2])
            visible = ops.broadcast_to(ops.expand_dims(visible, 1), shape)
        q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))
        return ops.dot_product_attention(q, k, v, bias=bias, mask=visible, scale=1.0)

    def compute_output_spec(
        self,
        queries: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        training: bool | None = None,
        return_scores: bool = False,
    ) -> Any:
        output = keras.KerasTensor(queries.shape, dtype=self.compute_dtype)
        shape = (queries.shape[0], self.num_heads, queries.shape[1], tokens.shape[1])
        return (output, keras.KerasTensor(shape, dtype="float32")) if return_scores else output

    def compute_output_shape(self, queries_shape: Shape, tokens_shape: Shape) -> Shape:
        return queries_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "attention_type": self.attention_type,
            "top_k": self.top_k,
            "qk_norm": self.qk_norm,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "fused": self.fused,
            "scale": self.fixed_scale,
            "average": self.average,
            "key_bias": self.key_bias,
            "value_bias": self.value_bias,
        }
