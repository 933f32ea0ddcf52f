"""`MaskedViT`: a Vision Transformer that learns from pictures without labels, by guessing what was hidden.

encoder = keras_vit.ViT("Ti/16", image_size=224, num_classes=None)
masked = keras_vit.MaskedViT(encoder, ratio=0.75, mode="mae")
masked.compile(keras.optimizers.AdamW(1e-3))
masked.fit(images, epochs=100)
model = masked.classifier(num_classes=10)  # a ViT with the pretrained weights
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.config import Shape, Tensor, integer
from keras_vit.errors import InputError, one_of
from keras_vit.layers import Linear, grid_sizes
from keras_vit.layers.dropping import take_positions, take_tokens
from keras_vit.layers.masks import as_mask
from keras_vit.losses import MaskedReconstruction
from keras_vit.modalities.pixels import ChecksArrays
from keras_vit.models.base import Model, shapes_of
from keras_vit.models.masked_decoder import HEAD_WIDTH, MaskedDecoder
from keras_vit.models.masked_images import MaskedImages
from keras_vit.models.partial_training import TrainsPart
from keras_vit.models.vit import ViT

MODES = ("simmim", "mae")


@keras.saving.register_keras_serializable("keras_vit")
class MaskedViT(MaskedImages, TrainsPart, ChecksArrays, Model):
    """Masked image modelling around a `ViT`: a random part of the patches is hidden and predicted.

    - "simmim" (Xie et al. 2021, arXiv:2111.09886): a learned [MASK] takes the place of hidden tokens, the
      encoder sees all of them, and one linear layer predicts their pixels.
    - "mae" (He et al. 2021, arXiv:2111.06377): the encoder sees the visible tokens only, so that a
      step costs less; a small decoder, given [MASK] and its position for each hidden one, predicts.

    `compile(optimizer)` and `fit(images)` are all it takes; labels beside the images are not looked at.
    Images [B, H, W, C] give {"patches": predicted float [B, N, P], "mask": bool [B, N], True = hidden}. In
    training every step and every example has a mask of its own; otherwise masks follow from a fixed seed and
    the place in the batch, so that `evaluate` can be repeated. In each example round(ratio * N) patches are
    hidden; where the encoder takes a `patch_mask`, N counts the real ones.

    The encoder is trained in place: `masked.encoder` is the one that was given, and `classifier` makes a
    classifier of it. Its head and pooling take no part and stay as they are, nor do its `patch_dropout` and
    its `compute_all_tokens`. Build it with the pooling that the classifier will have.

    What makes this a model of images is in a few small methods. A subclass for other tokens overrides them:
    `grid` (how tokens lie), `real` (which are no padding), `tokens` (input to tokens), `targets` and
    `target_width` (what each token is to be turned back into), and `idle` where the encoder's patches rest.

    Args:
        encoder: a `ViT`, with or without a head.
        ratio: share of the patches that is hidden, between 0 and 1: 0.6 in SimMIM, 0.75 in MAE.
        mode: "simmim" or "mae".
        reconstruction: a `keras_vit.losses.MaskedReconstruction`; None: patches normalised one by one, "l1"
            for "simmim" (published with normalise=False) and "l2" for "mae".
        decoder_width: of "mae"; None: half the encoder's, as in MAE, rounded up to a multiple of 32.
        decoder_depth: of "mae": number of blocks.
        seed: of the masks; None for a random one in training.

    Raises:
        InputError: no `ViT`; a ratio that hides no patch or all of them; an encoder that merges its tokens.
    """

    def __init__(
        self,
        encoder: ViT,
        ratio: float = 0.6,
        mode: str = "simmim",
        reconstruction: MaskedReconstruction | None = None,
        decoder_width: int | None = None,
        decoder_depth: int = 2,
        seed: int | None = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        _check_encoder(encoder)
        super().__init__(name=name, dtype=encoder.dtype_policy, trainable=trainable)
        self.encoder = encoder
        self.ratio = _checked_ratio(ratio, encoder)
        self.mode = one_of("mode", mode, MODES)
        self.reconstruction = _checked_reconstruction(reconstruction, mode)
        self.decoder_width = decoder_width
        self.decoder_depth = integer("decoder_depth", decoder_depth, at_least=1)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

        config = encoder.config
        width = config.width if mode == "simmim" else self._checked_width(decoder_width, config.width)
        shared = {"dtype": self.dtype_policy}
        self.mask_token = self.add_weight(
            shape=(1, 1, width), initializer=keras.initializers.RandomNormal(stddev=0.02), name="mask_token"
        )
        self.decoder = MaskedDecoder(width, decoder_depth, encoder, name="decoder") if mode == "mae" else None
        self.prediction = Linear(self.target_width(), name="prediction", **shared)
        self.prediction.build((None, None, width))
        self.build_now(shapes_of(self.input_signature()))

    def _checked_width(self, width, encoder_width):
        if width is None:
            return -(-encoder_width // (2 * HEAD_WIDTH)) * HEAD_WIDTH
        if integer("decoder_width", width, at_least=1) % 4:
            raise InputError(f"decoder_width must be a multiple of 4, not {width}.")
        return width

    num_classes = None  # it knows none; `data.pipeline` asks

    def check_range_of(self, inputs: Tensor) -> None:
        """See `RangeCheck.check_range`."""
        self.encoder.check_range_of(inputs)

    def prepare(self, images: Tensor) -> Tensor:
        """Pixels [B, H, W, C] in 0..255 as the encoder takes them."""
        return self.encoder.prepare(images)

    def __call__(self, inputs, *arguments, **options):
        self.grid(inputs)  # here, since Keras wraps what `call` raises in many lines
        self.check_range_of(inputs)
        return super().__call__(inputs, *arguments, **options)

    def input_signature(self) -> list:
        return self.encoder.input_signature()

    def build(self, input_shape: Shape) -> None:
        """Nothing is left to do: all parts are built where they are made."""

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Any:
        rows, columns = self.grid(inputs)
        shape = (keras.tree.flatten(inputs)[0].shape[0], rows * columns)
        return {
            "patches": keras.KerasTensor((*shape, self.target_width()), dtype=self.compute_dtype),
            "mask": keras.KerasTensor(shape, dtype="bool"),
        }

    def compute_output_shape(self, input_shape: Shape) -> dict:
        inputs = keras.tree.map_shape_structure(keras.KerasTensor, input_shape)
        return {name: spec.shape for name, spec in self.compute_output_spec(inputs).items()}

    def call(self, inputs: Tensor, training: bool | None = None) -> dict:
        rows, columns = grid = self.grid(inputs)
        real = self.real(inputs)
        real = None if real is None else as_mask(real)
        hidden = self.hidden(ops.shape(keras.tree.flatten(inputs)[0])[0], rows * columns, real, training)
        visible = ops.logical_not(hidden)
        if real is not None:
            visible = ops.logical_and(visible, real)
        tokens = self.tokens(inputs, visible)
        if self.mode == "simmim":
            tokens = ops.where(ops.expand_dims(hidden, 2), ops.cast(self.mask_token, tokens.dtype), tokens)
            y = self._encoded(tokens, grid, real, real, None, training)
        else:
            # Visible tokens first, in their order; `places` says where each one went.
            index = ops.arange(rows * columns, dtype="int32")
            order = ops.argsort(ops.where(visible, index, index + rows * columns), axis=1)
            places = ops.argsort(order, axis=1)
            keep = ops.cast(order[:, : rows * columns - self._count(rows * columns)], "int32")
            y = self._encoded(tokens, grid, real, None if real is None else visible, keep, training)
            y = self.decoder.embed(y)
            y = self._with_mask_tokens(y, places, visible)
            y = self.decoder(y, grid=grid, mask=self.encoder.extend_mask(real), training=training)
        return {"patches": self.prediction(y[:, self.encoder.prefix :]), "mask": hidden}

    def hidden(
        self, batch: int, length: int, real: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Draw what is hidden: bool [batch, length], True in round(ratio * n) of the n real places.

        A subclass may hide in another way (whole blocks, a part of a spectrogram), but as many.
        """
        seed = self.seed_generator if training else (self.seed or 0)
        draw = keras.random.uniform((batch, length), dtype="float32", seed=seed)
        counts = self._count(length)
        if real is not None:
            draw = ops.where(real, draw, 2.0)  # behind all real ones
            table = np.array([self._count(n) for n in range(length + 1)], "int32")
            counts = ops.take(table, ops.sum(ops.cast(real, "int32"), axis=1, keepdims=True))
        rank = ops.cast(ops.argsort(ops.argsort(draw, axis=1), axis=1), "int32")
        return rank < counts

    def _count(self, length):
        return round(self.ratio * length)

    def _encoded(self, x, grid, real, seen, keep, training):
        """Patch tokens through the encoder: [B, prefix + N, D], or those that `keep` [B, K] names.

        `seen` [B, N] says which of them attention may look at; None: all.
        """
        encoder = self.encoder
        x = encoder.add_class_tokens(x)
        x = encoder.positions(x, grid=grid, sizes=None if real is None else grid_sizes(real, grid))
        x = encoder.drop(encoder.add_registers(x), training=training)
        mask = encoder.extend_mask(seen)
        positions = encoder.positions.for_attention(grid, encoder.prefix)
        if keep is not None:
            first = ops.zeros_like(keep[:, :1]) + ops.arange(encoder.prefix, dtype="int32")
            keep = ops.concatenate([first, keep + encoder.prefix], axis=1)
            x, positions = take_tokens(x, keep), take_positions(positions, keep)
            mask = None if mask is None else take_tokens(mask, keep)
        for block in encoder.blocks:
            x = encoder.run_block(block, x, mask=mask, training=training, **positions)
        return encoder.norm(x, training=training)

    def _with_mask_tokens(self, x, places, visible):
        """[B, prefix + K, W] back to [B, prefix + N, W]: visible tokens at their places, [MASK] elsewhere."""
        prefix, kept = self.encoder.prefix, x.shape[1] - self.encoder.prefix
        patches = take_tokens(x[:, prefix:], ops.minimum(places, kept - 1))
        patches = ops.where(ops.expand_dims(visible, 2), patches, ops.cast(self.mask_token, x.dtype))
        return ops.concatenate([x[:, :prefix], patches], axis=1)

    # Training.

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        if self.loss is not None:
            raise InputError("MaskedViT has its own loss: compile(optimizer), and reconstruction=... for it.")
        hidden = ops.cast(y_pred["mask"], "float32")
        weights = hidden
        if sample_weight is not None:
            weights = hidden * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        loss = self.reconstruction(self.targets(x), y_pred["patches"], weights)
        if sample_weight is not None and self.reconstruction.reduction == "mean_with_sample_weight":
            # As Keras' losses: divided by what there is, not by its weights. So the mean over several parts
            # of a batch, on as many replicas or one after another, is that of the batch.
            loss = loss * ops.sum(weights) / ops.maximum(ops.sum(hidden), 1.0)
        for extra in self.losses:
            loss = loss + ops.sum(extra)
        return loss

    def idle(self) -> list:
        """Layers of the encoder that this training does not reach; they are not trained."""
        parts = (self.encoder.pool, self.encoder.head, self.encoder.head_distillation)
        return [layer for layer in parts if layer is not None]

    # After training.

    def classifier(self, num_classes: int | None, **changes: Any) -> ViT:
        """A new `ViT` with the pretrained weights and a fresh head.

        Args:
            num_classes: number of classes.
            **changes: anything else to change, as in `ViT.rebuilt`.
        """
        return self.encoder.rebuilt(num_classes=None).rebuilt(num_classes=num_classes, **changes)

    def get_config(self) -> dict:
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "ratio": self.ratio,
            "mode": self.mode,
            "reconstruction": keras.saving.serialize_keras_object(self.reconstruction),
            "decoder_width": self.decoder_width,
            "decoder_depth": self.decoder_depth,
            "seed": self.seed,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict) -> "MaskedViT":
        parts = {
            key: keras.saving.deserialize_keras_object(config[key]) for key in ("encoder", "reconstruction")
        }
        return cls(**{**config, **parts})


def _check_encoder(encoder):
    if not isinstance(encoder, ViT):
        raise InputError(
            f"encoder must be a ViT, not {type(encoder).__name__}: MaskedViT(ViT('Ti/16', ...))."
        )
    if encoder.merger is not None:
        raise InputError(
            "an encoder that merges its tokens has none left for each patch: pretrain "
            f"encoder.rebuilt(merge=None), then use masked.classifier(classes, merge={encoder.config.merge})."
        )


def _checked_ratio(ratio, encoder):
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise InputError(f"ratio must be between 0 and 1, e.g. 0.6, not {ratio!r}.")
    rows, columns = encoder.config.grid(encoder.image_size)
    if not 0 < round(ratio * rows * columns) < rows * columns:
        raise InputError(
            f"ratio {ratio} of {rows * columns} patches hides {round(ratio * rows * columns)} of them: "
            "something must be hidden, and something visible. Use smaller patches or another ratio."
        )
    return ratio


def _checked_reconstruction(value, mode):
    if value is None:
        return MaskedReconstruction(distance="l1" if mode == "simmim" else "l2")
    if not isinstance(value, MaskedReconstruction):
        raise InputError(f"reconstruction must be a keras_vit.losses.MaskedReconstruction, not {value!r}.")
    return value
