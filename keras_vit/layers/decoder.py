"""`DecoderBlock`: a pre-norm transformer block with cross-attention."""

from typing import Any

import keras

from keras_vit.config import Shape, Tensor
from keras_vit.layers.blocks import Block
from keras_vit.layers.linear import LINEAR_ROLES
from keras_vit.layers.quantization import Roles
from keras_vit.layers.remat import rematerialised


@keras.saving.register_keras_serializable("keras_vit")
class DecoderBlock(Block):
    """Self-attention, attention to a memory, and MLP (Vaswani et al. 2017, section 3.1), pre-norm.

        x = x + Attention(LayerNorm(x)); x = x + Attention(LayerNorm(x), memory); x = x + Mlp(LayerNorm(x))

    Tokens [B, M, D] and memory [B, N, D'] (normalised, as an encoder ends) -> [B, M, D].

    The roles of its tensors for quantization are "sum_1", "sum_2" and "sum_3", after each branch.
    """

    roles = Roles(full={"sum_1": "range", "sum_2": "range", "sum_3": "range"})

    __doc__ += Block.__doc__[Block.__doc__.index("\n\n    Args:") :]

    def __init__(
        self, num_heads: int, mlp_width: int, attention: dict | None = None, mlp: str = "gelu", **kwargs: Any
    ) -> None:
        super().__init__(num_heads, mlp_width, attention, mlp, **kwargs)
        self.norm_1, self.attention = self._norm("norm_1"), self._attention("attention")
        self.branch_1 = self._branch(1)
        self.norm_2, self.cross_attention = self._norm("norm_2"), self._attention("cross_attention")
        self.branch_2 = self._branch(2)
        self.norm_3, self.mlp = self._norm("norm_3"), self._mlp()
        self.branch_3 = self._branch(3)

    def build(self, tokens_shape: Shape, memory_shape: Shape) -> None:
        branches = (*self.branch_1, *self.branch_2, *self.branch_3)
        for layer in (self.norm_1, self.norm_2, self.norm_3, self.mlp, *branches):
            layer.build(tokens_shape)
        self.attention.build(tokens_shape, tokens_shape)
        self.cross_attention.build(tokens_shape, memory_shape)

    def call(
        self,
        tokens: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        memory_bias: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """`mask`: which tokens see which, as in `Attention` (`causal_mask(M)` for "no future").
        `memory_mask`: which of the memory may be seen; or `memory_bias`, see `masks.as_bias`."""

        def forward(tokens, memory):
            y = self.norm_1(tokens)
            y = self.attention(y, y, mask=mask, training=training)
            x = self.fake_quantize("sum_1", tokens + self._run(self.branch_1, y, training))
            y = self.cross_attention(
                self.norm_2(x), memory, mask=memory_mask, bias=memory_bias, training=training
            )
            x = self.fake_quantize("sum_2", x + self._run(self.branch_2, y, training))
            y = self.mlp(self.norm_3(x), training=training)
            return self.fake_quantize("sum_3", x + self._run(self.branch_3, y, training))

        if self.remat and training:
            return rematerialised(self, forward, tokens, memory)
        return forward(tokens, memory)

    def take_constant_tokens(self) -> None:
        """Declare for quantization that the tokens are the same for all inputs, as learned queries are.

        What the block computes from them alone is a constant in a file: all before the product of its queries
        with the keys of the memory. To be called when it is built.
        """
        attention, cross_attention = self.attention, self.cross_attention
        projections = (attention.query, attention.key, attention.value, attention.output_projection)
        for layer in (self.norm_1, attention, *projections, self.norm_2, cross_attention.query):
            layer.is_constant = True
        cross_attention.constant_queries = True
        # Where a constant is added to an output, the converter adds the bias to that: the sum is no tensor.
        cross_attention.output_projection.roles = Roles(
            LINEAR_ROLES.token,
            LINEAR_ROLES.mixed,
            static=LINEAR_ROLES.token,
            full={"kernel": "weight", "product": "range", "input": "range"},
        )
        self.roles = Roles(full={"sum_2": "range", "sum_3": "range"})

    def compute_output_shape(self, tokens_shape: Shape, memory_shape: Shape) -> Shape:
        return tokens_shape
