"""`CaptionDecoder`: from tokens of any kind to words, one after the other."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, integer, rate
from keras_vit.errors import InputError
from keras_vit.layers.decoder import DecoderBlock
from keras_vit.layers.linear import Linear
from keras_vit.layers.masks import ExplicitMask, causal_mask
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.positions import LearnedPositions
from keras_vit.modalities.encoder import block_options
from keras_vit.modalities.text import look_up, table_of_words, vocabulary_of
from keras_vit.modalities.vocabulary import PADDING, UNKNOWN
from keras_vit.old_names import Renamed


@keras.saving.register_keras_serializable("keras_vit")
class CaptionDecoder(Renamed, ExplicitMask, keras.layers.Layer):
    """Captions [B, T] int32 and a memory [B, N, D] -> logits [B, T, ids] of each next word.

    The decoder of Vaswani et al. 2017 (section 3.1), trained by teacher forcing: the words enter shifted one
    to the right behind a learned start, under a causal mask, so that logits[:, t] follow from the words
    before t and the memory. The first padding after the last word is the caption's end, and is learned
    as such: train against `caption_targets(captions)` with ignore=-1.

    Args:
        vocabulary: a `Vocabulary`, a list of its words, or its size.
        length: T, the longest caption; room for the end is not needed.
        depth: decoder blocks.
        num_heads: attention heads; None: one for each 64 channels.
        mlp_width: hidden width of the MLPs; None: 4 times the width.
        dropout: rate inside the MLPs.
    """

    def __init__(
        self,
        vocabulary: Any,
        length: int,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary, self.size = vocabulary_of(vocabulary)
        self.length, self.depth = integer("length", length, 1), integer("depth", depth, 1)
        self.num_heads = None if num_heads is None else integer("num_heads", num_heads, 1)
        self.mlp_width = None if mlp_width is None else integer("mlp_width", mlp_width, 1)
        self.dropout = rate("dropout", dropout)
        self.attention_options: dict = {}
        self.affine = True
        self.head = Linear(self.size, dtype=self.dtype_policy, name="head")

    def build(self, captions_shape: Shape, memory_shape: Shape) -> None:
        shared = {"dtype": self.dtype_policy}
        self.width = memory_shape[-1]
        words = (None, self.length, self.width)
        self.table = table_of_words(self, self.size, self.width)
        self.start = self.add_weight(
            shape=(1, 1, self.width), initializer=keras.initializers.RandomNormal(stddev=1.0), name="start"
        )
        self.positions = LearnedPositions(self.length, stddev=1.0, name="positions", **shared)
        self.memory_norm = LayerNorm(name="memory_norm", **shared)
        self.blocks = [
            DecoderBlock(**block_options(self), name=f"block_{i}", **shared) for i in range(self.depth)
        ]
        self.norm = LayerNorm(name="norm", **shared)
        self.memory_norm.build(memory_shape)
        for block in self.blocks:
            block.build(words, memory_shape)
        for layer in (self.positions, self.norm, self.head):
            layer.build(words)

    def call(
        self,
        captions: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """`memory_mask` [B, N]: which tokens of the memory are real."""
        if len(captions.shape) != 2 or captions.shape[1] != self.length:
            raise InputError(f"captions are ids [batch, {self.length}], not {list(captions.shape)}.")
        x = look_up(self.table, captions)
        x = ops.concatenate([ops.zeros_like(x[:, :1]) + ops.cast(self.start, x.dtype), x[:, :-1]], axis=1)
        x, memory = self.positions(x), self.memory_norm(memory)
        for block in self.blocks:
            x = block(x, memory, mask=causal_mask(self.length), memory_mask=memory_mask, training=training)
        return self.head(self.norm(x))

    def greedy(self, memory: Tensor, memory_mask: Tensor | None = None) -> np.ndarray:
        """The most likely word at each step: int32 [B, T], padding after the end. Never the unknown word."""
        ids = np.zeros((memory.shape[0], self.length), "int32")
        ended = np.zeros(len(ids), "bool")
        for step in range(self.length):
            logits = self(ids, memory, memory_mask=memory_mask, training=False)
            logits = np.array(ops.convert_to_numpy(ops.cast(logits, "float32"))[:, step])
            logits[:, UNKNOWN] = -np.inf
            ids[:, step] = np.where(ended, PADDING, logits.argmax(axis=1))
            ended |= ids[:, step] == PADDING
            if ended.all():
                break
        return ids

    def compute_output_spec(
        self,
        captions: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Any:
        return keras.KerasTensor((captions.shape[0], self.length, self.size), dtype=self.compute_dtype)

    def compute_output_shape(self, captions_shape: Shape, memory_shape: Shape) -> Shape:
        return (captions_shape[0], self.length, self.size)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "vocabulary": self.size if self.vocabulary is None else list(self.vocabulary.words),
            "length": self.length,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "dropout": self.dropout,
        }


def caption_targets(captions: Tensor, ignore: int = -1) -> Tensor:
    """Captions [B, T] with `ignore` after their end, the first padding: what a loss shall count."""
    is_word = ops.cast(ops.not_equal(captions, PADDING), "int32")
    counts = ops.concatenate([ops.ones_like(is_word[:, :1]), is_word[:, :-1]], axis=1)
    return ops.where(ops.equal(counts, 1), captions, ops.cast(ignore, captions.dtype))
