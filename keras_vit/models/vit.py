"""`ViT`: the Vision Transformer of Dosovitskiy et al. 2020 (arXiv:2010.11929).

image -> patches -> [CLS] + patch tokens -> + positions -> blocks -> norm -> pool -> logits
"""

import keras
from keras import ops

from keras_vit.config import ViTConfig, pair
from keras_vit.errors import InputError
from keras_vit.layers import EncoderBlock, LayerNorm, LearnedPositions, Linear, Patches, Pooling

# How a picture becomes what the weights expect: (pixel / 255 - mean) / std, after the picture
# was scaled to cover the image size and cropped in the centre.
DEFAULT_PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@keras.saving.register_keras_serializable("keras_vit")
class ViT(keras.Model):
    """A Vision Transformer. Images [B, H, W, 3], normalised, give logits [B, classes].

        model = keras_vit.ViT("Ti/16", image_size=224, classes=1000)
        model = keras_vit.ViT(ViTConfig(...), image_size=(64, 96), classes=10, pooling="mean")

    With `classes=None` there is no head: the output is the pooled feature [B, width], or all
    tokens [B, N, width] with `pooling=None`.

    Args:
        config: a variant ("Ti/16", "S/16", "B/32", ... see `keras_vit.config`) or a `ViTConfig`.
        image_size: one integer or (height, width), multiples of the patch.
        classes: number of classes, or None.
        preprocessing: {"mean": [3], "std": [3]} of pixels in [0, 1]; kept with the model, applied
            by training and prediction, baked into every export. Never applied in `call`.
        **overrides: fields of `ViTConfig` to replace.

    Raises:
        InputError (a ValueError): unknown variant or field, or an image size that is not a
            multiple of the patch.
    """

    def __init__(
        self,
        config="Ti/16",
        image_size=224,
        classes=1000,
        preprocessing=None,
        name="vit",
        dtype=None,
        trainable=True,
        **overrides,
    ):
        config = ViTConfig.of(config, **overrides)
        config.grid(image_size)  # refuses a size that the patch does not divide
        if classes is not None and (not isinstance(classes, int) or classes < 1):
            raise InputError(f"classes must be a positive integer or None, not {classes!r}.")
        if classes is not None and config.pooling is None:
            raise InputError("pooling=None keeps all tokens, so there is no head: use classes=None with it.")
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = config
        self.image_size = pair(image_size, "image_size")
        self.classes = classes
        self.preprocessing = dict(preprocessing or DEFAULT_PREPROCESSING)

        policy = self.dtype_policy
        self.patches = Patches(
            config.patch_size, config.width, use_bias=not config.folded, dtype=policy, name="patches"
        )
        self.positions = LearnedPositions(dtype=policy, name="positions")
        self.drop = keras.layers.Dropout(config.dropout, dtype=policy, name="drop")
        self.blocks = [
            EncoderBlock(
                config.heads,
                config.mlp_width,
                dropout=config.dropout,
                folded=config.folded,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(config.depth)
        ]
        # Folding moves the last norm's scale and shift into the head, so it needs one.
        self.norm = LayerNorm(affine=not (config.folded and classes), dtype=policy, name="norm")
        self.pool = Pooling(config.pooling, dtype=policy, name="pool")
        self.head = (
            Linear(classes, kernel_initializer="zeros", dtype=policy, name="head") if classes else None
        )
        self.build((None, *self.image_size, 3))

    def build(self, input_shape):
        rows, columns = self.config.grid(input_shape[1:3])
        tokens = rows * columns
        if self.config.pooling == "cls":
            tokens += 1
            self.cls = self.add_weight(shape=(1, 1, self.config.width), initializer="zeros", name="cls")
        shape = (None, tokens, self.config.width)
        self.patches.build(input_shape)
        for layer in (self.positions, *self.blocks, self.norm):
            layer.build(shape)
        if self.head is not None:
            self.head.build((None, self.config.width))
        self.built = True

    def call(self, images, training=None):
        self._check(images)
        x = self.patches(images)
        if self.config.pooling == "cls":
            # Zeros of the batch's size, by arithmetic that leaves no SHAPE operator in a phone's file.
            x = ops.concatenate([ops.zeros_like(x[:, :1]) + self.cls, x], axis=1)
        x = self.drop(self.positions(x), training=training)
        for block in self.blocks[:-1]:
            x = block(x, training=training)
        # Only the [CLS] row leaves the last block, so only that row is computed: exact, and less work.
        x = self.blocks[-1](x, rows=1 if self.config.pooling == "cls" else None, training=training)
        x = self.pool(self.norm(x))
        return x if self.head is None else self.head(x)

    def _check(self, images):
        given = tuple(images.shape)
        if len(given) != 4 or given[1:] != (*self.image_size, 3):
            raise InputError(
                f"this model takes images of shape [batch, {self.image_size[0]}, {self.image_size[1]}, 3], "
                f"not {list(given)}: resize them, or build the model with image_size={list(given[1:3])}."
            )

    def compute_output_shape(self, input_shape):
        if self.classes:
            return (input_shape[0], self.classes)
        if self.config.pooling is None:
            return (input_shape[0], self.positions.table.shape[1], self.config.width)
        return (input_shape[0], self.config.width)

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "image_size": list(self.image_size),
            "classes": self.classes,
            "preprocessing": self.preprocessing,
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return cls(**config)
