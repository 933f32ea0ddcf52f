"""`Image`: a picture as patches."""

from typing import Any

import keras

from keras_vit.config import STEMS, Shape, Size, Tensor, boolean, integer, pair, rate
from keras_vit.errors import one_of
from keras_vit.layers.stems import stem_for
from keras_vit.modalities.encoder import encoded, encoder_for
from keras_vit.modalities.grid import GridModality
from keras_vit.modalities.pixels import Pixels
from keras_vit.old_names import Renamed


@keras.saving.register_keras_serializable("keras_vit")
class Image(Renamed, Pixels, GridModality):
    """Pictures [B, height, width, channels], normalised, -> a token for each patch, row by row.

    Args:
        image_size: (height, width) in pixels or one integer, multiples of the patch.
        patch_size: (height, width) in pixels or one integer.
        channels: 3 for RGB.
        stem: "linear", "conv", "overlapping" or "compact" (convolutions and pooling): see `layers.stem_for`.
        position: see `GridModality`.
        depth: encoder blocks over the patches of this picture alone, before the trunk: a vision module whose
            features know what stands where. 0: the trunk does it all.
        num_heads, mlp_width, dropout: of these blocks, as in `Text`.
        preprocessing: {"mean": [channels], "std": [channels]} of pixels in [0, 1], which `prepare` applies;
            never applied in `call`.
        attention: dictionary of further arguments of the `Attention` of its blocks: scale, key_bias, ...
        affine: whether the norms of its blocks have scale and shift.
        width: see `Modality`.
    """

    of_folded = ("attention", "affine")

    def __init__(
        self,
        image_size: Size,
        patch_size: Size,
        channels: int = 3,
        stem: str = "linear",
        position: str = "learned",
        depth: int = 0,
        num_heads: int | None = None,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        preprocessing: dict | None = None,
        attention: dict | None = None,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(position, **kwargs)
        self.image_size, self.patch_size = pair(image_size, "image_size"), pair(patch_size, "patch_size")
        self.channels, self.stem = integer("channels", channels, 1), one_of("stem", stem, STEMS)
        self.depth, self.dropout = integer("depth", depth, 0), rate("dropout", dropout)
        self.attention_options, self.affine = dict(attention or {}), boolean("affine", affine)
        self.take_preprocessing(preprocessing)
        self.num_heads = None if num_heads is None else integer("num_heads", num_heads, 1)
        self.mlp_width = None if mlp_width is None else integer("mlp_width", mlp_width, 1)
        self.lay_out(*self.image_size)

    def signature(self) -> dict:
        return {"shape": (*self.image_size, self.channels), "dtype": "float32"}

    def tokenizer(self, width: int, **kwargs: Any) -> keras.layers.Layer:
        return stem_for(self.stem, self.patch_size, width, **kwargs)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.encoder = encoder_for(self, self.tokens)

    def tokenize(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens, mask = super().tokenize(images)
        return encoded(self.encoder, tokens), mask

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "image_size": list(self.image_size),
            "patch_size": list(self.patch_size),
            "channels": self.channels,
            "stem": self.stem,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "dropout": self.dropout,
            "preprocessing": self.preprocessing,
            "attention": self.attention_options,
            "affine": self.affine,
        }
