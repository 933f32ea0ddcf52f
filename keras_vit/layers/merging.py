"""`PatchMerger`: from many tokens to few, by two matrix products."""

from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Tensor, boolean, integer, positive
from keras_vit.layers.attention import softmax
from keras_vit.layers.masks import MASKED_SCORE, ExplicitMask, token_mask
from keras_vit.layers.norm import LayerNorm
from keras_vit.old_names import Renamed


@keras.saving.register_keras_serializable("keras_vit")
class PatchMerger(Renamed, ExplicitMask, keras.layers.Layer):
    """softmax(W LayerNorm(X)^T) X: [B, N, D] -> [B, tokens, D].

    Renggli et al. 2022 (arXiv:2202.12015, equation 2).
    Each of the `tokens` learned queries takes a weighted mean over all tokens, in float32. With a
    mask [B, N] (True = real) only real tokens count; with none real the result is zeros.

    Args:
        tokens: how many come out.
        epsilon: of the norm.
        affine, centre: of the norm, see `LayerNorm`.
    """

    of_folded = ("affine", "centre")

    def __init__(
        self, tokens: int, epsilon: float = 1e-6, affine: bool = True, centre: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tokens = integer("number of merged tokens", tokens, at_least=1)
        self.epsilon = positive("epsilon", epsilon)
        self.affine, self.centre = boolean("affine", affine), boolean("centre", centre)
        self.norm = LayerNorm(epsilon, affine, centre, dtype=self.dtype_policy, name="norm")

    def build(self, input_shape: Shape) -> None:
        self.norm.build(input_shape)
        self.queries = self.add_weight(
            shape=(self.tokens, input_shape[-1]), initializer="lecun_normal", name="queries"
        )

    def call(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            mask = token_mask(mask, *tokens.shape[:2])
            tokens = ops.where(ops.expand_dims(mask, 2), tokens, 0)
        scores = ops.matmul(self.queries, ops.transpose(self.norm(tokens), (0, 2, 1)))
        scores = ops.cast(scores, "float32")  # [B, tokens, N]
        if mask is not None:
            scores = ops.where(ops.expand_dims(mask, 1), scores, MASKED_SCORE)
        weights = ops.cast(softmax(scores), self.compute_dtype)
        return ops.matmul(weights, tokens)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "tokens": self.tokens,
            "epsilon": self.epsilon,
            "affine": self.affine,
            "centre": self.centre,
        }
