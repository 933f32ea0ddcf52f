"""`Text`: words as tokens, or as a visual sentence of fixed length."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, boolean, integer, rate
from keras_vit.errors import InputError
from keras_vit.layers.decoder import DecoderBlock
from keras_vit.layers.masks import as_bias
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.patches import only_real
from keras_vit.layers.positions import LearnedPositions
from keras_vit.layers.quantization import Roles
from keras_vit.modalities.base import Modality
from keras_vit.modalities.encoder import block_options, encoded, encoder_for
from keras_vit.modalities.vocabulary import PADDING, UNKNOWN, Vocabulary
from keras_vit.old_names import Renamed

TABLE = {"table": "constant"}  # of vectors that ids choose from
TABLE_ROLES = Roles(TABLE, TABLE, TABLE, full={**TABLE, "positioned": "range"})


@keras.saving.register_keras_serializable("keras_vit")
class Text(Renamed, Modality):
    """Word ids [B, length] int32 (0 = padding, 1 = unknown) -> a token for each word, or a visual sentence.

        words = table[ids] + positions;  words = LayerNorm(encoder blocks(words))      with depth > 0
        sentence = LayerNorm(decoder blocks(queries, words))                           with sentence = K

    Without `sentence` there are `length` tokens, and the mask is False on padding. With it, K learned queries
    attend to the words: K tokens [B, K, width], all real, or none of them when the text has no word. So an
    empty text counts as absent. Ids outside of the vocabulary count as unknown.

    `layer.encode(["..."])` turns texts to ids, outside of the graph; called with strings, the layer does so
    itself.

    Args:
        vocabulary: a `Vocabulary`, a list of its words, or only its size, an integer.
        length: words of a text.
        sentence: K, tokens of the visual sentence; None for a token for each word.
        depth: encoder blocks over the words; None: 2 with a sentence, else 0 (the model's trunk does it).
        decoder_depth: decoder blocks of the sentence.
        num_heads: attention heads; None: the model's, or one for each 64 channels.
        mlp_width: hidden width of the MLPs; None: 4 times the width.
        dropout: rate inside the MLPs.
        attention: dictionary of further arguments of the `Attention` of its blocks: scale, key_bias, ...
        affine: whether the norms of its blocks have scale and shift.
        width: see `Modality`.
    """

    roles = TABLE_ROLES
    of_folded = ("attention", "affine")

    def __init__(
        self,
        vocabulary: Any,
        length: int,
        sentence: int | None = None,
        depth: int | None = None,
        decoder_depth: int = 1,
        num_heads: int | None = None,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        attention: dict | None = None,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary, self.size = vocabulary_of(vocabulary)
        self.length = integer("length", length, 1)
        self.sentence = None if sentence is None else integer("sentence", sentence, 1)
        self.depth = (2 if sentence else 0) if depth is None else integer("depth", depth, 0)
        self.decoder_depth = integer("decoder_depth", decoder_depth, 1)
        self.num_heads = None if num_heads is None else integer("num_heads", num_heads, 1)
        self.mlp_width = None if mlp_width is None else integer("mlp_width", mlp_width, 1)
        self.dropout = rate("dropout", dropout)
        self.attention_options, self.affine = dict(attention or {}), boolean("affine", affine)
        self.tokens = self.sentence or self.length

    def signature(self) -> dict:
        return {"shape": (self.length,), "dtype": "int32"}

    def encode(self, texts: str | list[str]) -> np.ndarray:
        """Texts, a list or one string, as ids int32 [B, length]. Warns once of words that do not fit."""
        if self.vocabulary is None:
            raise InputError(
                f"{self._title} knows only the size of its vocabulary, {self.size}: make it with a "
                "Vocabulary, or give ids."
            )
        return self.vocabulary.encode([texts] if isinstance(texts, str) else list(texts), self.length)

    def build(self, input_shape: Shape) -> None:
        shared = {"dtype": self.dtype_policy}
        words = (None, self.length, self.width)
        # As large as the tokens of other modalities: PyTorch's choice for embeddings, too.
        self.table = table_of_words(self, self.size, self.width)
        self.positions = LearnedPositions(self.length, stddev=1.0, name="positions", **shared)
        self.positions.build(words)
        self.encoder, self.decoder = encoder_for(self, self.length, adds_bias=True), None
        if self.sentence:
            sentence = (None, self.sentence, self.width)
            self.queries = self.add_weight(
                shape=(1, self.sentence, self.width),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                name="queries",
            )
            self.decoder = [
                DecoderBlock(**block_options(self), name=f"decoder_{i}", **shared)
                for i in range(self.decoder_depth)
            ]
            self.sentence_norm = LayerNorm(name="sentence_norm", **shared)
            for block in self.decoder:
                block.build(sentence, words)
                block.cross_attention.adds_bias = True
            self.decoder[0].take_constant_tokens()
            self.sentence_norm.build(sentence)

    def tokenize(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        mask = ops.not_equal(ids, PADDING)
        x = self.fake_quantize("tokens", look_up(self.fake_quantize("table", self.table), ids))
        x = self.fake_quantize("positioned", self.positions(x))
        bias = None
        if self.encoder or self.decoder:
            x, bias = only_real(x, mask), as_bias(mask)
        x = encoded(self.encoder, x, bias)
        if self.decoder is None:
            return x, mask
        sentence = ops.zeros_like(x[:, :1]) + ops.cast(self.queries, x.dtype)
        for block in self.decoder:
            sentence = block(sentence, x, memory_bias=bias)
        some = ops.any(mask, axis=1, keepdims=True)
        return self.sentence_norm(sentence), ops.logical_and(some, np.ones((1, self.sentence), "bool"))

    def _checked(self, inputs):
        kind = getattr(inputs, "dtype", None)
        if isinstance(inputs, np.ndarray) and kind.kind in "UO" and inputs.ndim <= 1:
            inputs = self.encode(np.atleast_1d(inputs))
        elif "string" in str(kind) or (isinstance(inputs, np.ndarray) and kind.kind in "SUO"):
            raise InputError(
                f"{self._title} takes word ids: strings become ids outside of the graph, by its "
                "encode(['a text', ...])."
            )
        return super()._checked(inputs)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "vocabulary": self.size if self.vocabulary is None else list(self.vocabulary.words),
            "length": self.length,
            "sentence": self.sentence,
            "depth": self.depth,
            "decoder_depth": self.decoder_depth,
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "dropout": self.dropout,
            "attention": self.attention_options,
            "affine": self.affine,
        }


# Shared with the decoder of captions.


def vocabulary_of(value: Any) -> tuple[Vocabulary | None, int]:
    """(Vocabulary or None, number of ids) of a `Vocabulary`, a list of words or a number."""
    if isinstance(value, list | tuple):
        value = Vocabulary(list(value))
    if isinstance(value, Vocabulary):
        return value, len(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 3:
        raise InputError(
            f"vocabulary must be a Vocabulary, a list of words or a number of ids from 3, not {value!r}: "
            "see Vocabulary.from_texts and Vocabulary.load."
        )
    return None, value


def table_of_words(layer: keras.layers.Layer, size: int, width: int) -> Any:
    """The weight [size, width] of a layer; as large as what projections of patches give."""
    return layer.add_weight(
        shape=(size, width), initializer=keras.initializers.RandomNormal(stddev=1.0), name="table"
    )


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of `table` [size, width]; the row of `UNKNOWN` for ids that it does not have."""
    known = ops.logical_and(ids >= 0, ids < table.shape[0])
    return ops.take(table, ops.where(known, ids, UNKNOWN), axis=0)
