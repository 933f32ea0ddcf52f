"""`ViT`: the Vision Transformer of Dosovitskiy et al. 2020 (arXiv:2010.11929).

image -> patches -> [CLS] + patch tokens -> + positions -> blocks -> norm -> pool -> logits

`ViT.call` reads in that order. Its layers are those of `keras_vit.layers`, made from a `ViTConfig` in
`vit_layers.py`; which inputs it takes is in `vit_inputs.py`.
"""

from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Size, Tensor, ViTConfig, boolean, pair
from keras_vit.errors import InputError
from keras_vit.layers import (
    LayerNorm,
    PatchDropout,
    PatchMerger,
    custom,
    depth_rates,
    grid_sizes,
    positions_for,
    stem_for,
)
from keras_vit.layers.dropping import take_positions, take_tokens
from keras_vit.layers.quantization import Quantizable
from keras_vit.modalities.pixels import checked_preprocessing
from keras_vit.models.activation import AUTO, WithActivation
from keras_vit.models.base import Model, shapes_of
from keras_vit.models.rebuilding import Rebuilt
from keras_vit.models.vit_inputs import ImageInputs
from keras_vit.models.vit_layers import INT8_OPERATORS, PATCHES_ROLES, block_for, head_for, pool_for
from keras_vit.old_names import with_new_names


@keras.saving.register_keras_serializable("keras_vit")
class ViT(Quantizable, WithActivation, ImageInputs, Rebuilt, Model):
    """A Vision Transformer. Images [B, H, W, C], normalised, give logits [B, num_classes].

        model = keras_vit.ViT("Ti/16", image_size=224, num_classes=1000)
        model = keras_vit.ViT(ViTConfig(...), image_size=(64, 96), num_classes=10, pooling="mean")

    With `num_classes=None` there is no head: the output is the pooled feature [B, width], or all
    patch tokens [B, N, width] with `pooling=None`.

    With `patch_mask=True` it takes {"image": [B, H, W, C], "patch_mask": [B, N]} (`layers.pad_images` makes
    both): pictures of any size that is a multiple of the patch, each in the top left of its canvas, 1 for
    every patch that is real. Each picture gets the logits that it gets alone.

    Args:
        config: a variant ("Ti/16", "S/16", "B/32", ... see `keras_vit.config`) or a `ViTConfig`.
        image_size: one integer or (height, width), multiples of the patch.
        num_classes: number of classes, or None.
        preprocessing: {"mean": [C], "std": [C]} of pixels in [0, 1]; kept with the model, applied
            by training and prediction, baked into every export. Not applied in `call`, but for:
        include_preprocessing: True: the model takes pixels 0..255 and normalises them in `call`, as those of
            `keras.applications` do. `prepare` then leaves them as they are.
        activation: what every export, runner and report makes of the logits; never applied in `call`, so
            compile with a loss `from_logits=True`. "softmax", one class of several (CategoricalCrossentropy);
            "sigmoid", each class on its own (BinaryCrossentropy); None, numbers that are answered as they
            are (MeanSquaredError). "auto" is "sigmoid" for num_classes=1, else "softmax".
        **overrides: fields of `ViTConfig` to replace: `channels=1` for grey pictures; `attention`, `mlp` and
            `block` also take a layer of your own (see `keras_vit.layers.custom`).

    Raises:
        InputError (a ValueError): unknown variant, field or activation, a softmax over one class, or an
            image size that is not a multiple of the patch.
    """

    def __init__(
        self,
        config: str | dict | ViTConfig = "Ti/16",
        image_size: Size = 224,
        num_classes: int | None = 1000,
        preprocessing: dict | None = None,
        include_preprocessing: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        activation: str = AUTO,
        **overrides: Any,
    ) -> None:
        config = ViTConfig.of(config, **overrides).for_size(image_size)
        grid = config.grid(image_size)  # refuses a size that the patch does not divide
        _check_classes(num_classes, config.pooling)
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = config
        self.image_size = pair(image_size, "image_size")
        self.num_classes = num_classes
        self.activation = activation
        # How a picture becomes what the weights expect: (pixel / 255 - mean) / std, after the picture was
        # scaled to cover the image size and cropped in the centre.
        self.preprocessing = checked_preprocessing(preprocessing or None, config.channels)
        self.include_preprocessing = boolean("include_preprocessing", include_preprocessing)
        self.compute_all_tokens = False  # True: the last block also computes tokens that are not pooled
        self.return_both_heads = False  # True: a distilled model gives [B, 2, num_classes] in training

        # Tokens stand in this order: [CLS], the distillation token, registers, patches.
        self.class_tokens = (config.pooling == "cls") + config.distilled
        self.prefix = self.class_tokens + config.registers
        shared = {"dtype": self.dtype_policy}
        width, num_heads = config.width, config.num_heads
        self.patches = stem_for(
            config.stem, config.patch_size, width, use_bias=config.patch_bias, name="patches", **shared
        )
        self.positions = positions_for(
            config.position, grid, self.class_tokens, width, num_heads, name="positions", **shared
        )
        self.drop = keras.layers.Dropout(config.dropout, name="drop", **shared)
        self.patch_drop = PatchDropout(config.patch_dropout, prefix=self.prefix, name="patch_drop", **shared)
        self.blocks = [
            block_for(config, i, skip_rate, **shared)
            for i, skip_rate in enumerate(depth_rates(config.stochastic_depth, config.depth))
        ]
        norm = {"affine": config.norm_affine, "centre": config.norm_centre}
        self.merger = None
        if config.merge:
            self.merger = PatchMerger(config.merge[1], config.epsilon, **norm, name="merger", **shared)
        norm["affine"] |= not num_classes
        self.norm = LayerNorm(config.epsilon, **norm, name="norm", **shared)
        self.pool = pool_for(config, self.prefix, **shared)
        self.head = self.head_distillation = None
        if num_classes:
            self.head = head_for(config, num_classes, "head", **shared)
        if num_classes and config.distilled:
            self.head_distillation = head_for(config, num_classes, "head_distillation", **shared)
        self.patches.declare(PATCHES_ROLES)
        self.build_now(shapes_of(self.input_signature()))

    built: bool

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        images = input_shape["image"] if isinstance(input_shape, dict) else input_shape
        config = self.config
        rows, columns = config.grid((images[1], images[2]))
        patches = (None, rows * columns, config.width)
        tokens = (None, self.prefix + rows * columns, config.width)
        for name, length in (
            ("cls", config.pooling == "cls"),
            ("distillation", config.distilled),
            ("registers", config.registers),
        ):
            if length:
                initializer = "zeros" if name == "cls" else keras.initializers.RandomNormal(stddev=0.02)
                shape = (1, int(length), config.width)
                setattr(self, name, self.add_weight(shape=shape, initializer=initializer, name=name))
        self.patches.build(images)
        self.positions.build((None, self.class_tokens + rows * columns, config.width))
        if self.merger is not None:
            self.merger.build(patches)
        for i, block in enumerate(self.blocks):
            merged = self.merger is not None and i >= config.merge[0]
            shape = (None, self.prefix + config.merge[1], config.width) if merged else tokens
            if "block" in config.custom:
                custom.build(block, shape)
            else:
                block.build(shape)
        for layer in (self.patch_drop, self.norm, self.pool):
            layer.build(tokens)
        for head in filter(None, (self.head, self.head_distillation)):
            head.build((None, config.width))
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        images, mask = self.images_and_mask(inputs)
        grid = self.config.grid(images.shape[1:3])
        sizes = None if mask is None else grid_sizes(mask, grid)
        x = self.patches(self.normalised(images), mask=mask)
        x = self.fake_quantize("tokens", self.add_class_tokens(x))
        x = self.fake_quantize("positioned", self.positions(x, grid=grid, sizes=sizes))
        x = self.fake_quantize("embedded", self.add_registers(x))
        mask = self.extend_mask(mask)
        x = self.drop(x, training=training)
        positions = self.positions.for_attention(grid, self.prefix)  # rotary angles, or a bias on the scores
        keep = self.patch_drop(x, mask=mask, training=training)
        if keep is not None:
            x, positions = take_tokens(x, keep), take_positions(positions, keep)
            mask = None if mask is None else take_tokens(mask, keep)
        for i, block in enumerate(self.blocks):
            if self.merger is not None and i == self.config.merge[0]:
                x, mask, positions = self._merge(x, mask), None, {}
            # Only [CLS] leaves the last block, so only its row is computed: exact, and less work.
            last = i == len(self.blocks) - 1 and self.class_tokens and not self.compute_all_tokens
            num_queries = self.class_tokens if last else None
            x = self.run_block(block, x, mask=mask, num_queries=num_queries, training=training, **positions)
        return self._pool_and_classify(self.norm(x), mask, training)

    def quantization_roles(self, family: str) -> dict[str, str]:
        if family != "full":
            return {}
        # Only of tensors that are not the one before: two fake quantizers of one tensor would round it twice.
        roles = {"tokens": self.class_tokens, "positioned": True, "embedded": self.config.registers}
        return {role: "range" for role, is_new in roles.items() if is_new}

    def unsupported_by(self, family: str) -> str | None:
        """Why no profile of a family (see `layers.quantization`) can quantize this model, or None."""
        for field, registered in self.config.custom.items():
            return (
                f"a ViT with {field}={registered}: quantization does not know what a layer of your own "
                "computes. Export it as float32 or float16."
            )
        for field, known in INT8_OPERATORS.items() if family == "full" else ():
            value = getattr(self.config, field)
            if value not in known:
                return (
                    f"a ViT with {field}={value!r}, whose operators have no int8 kernels: use int8 or "
                    "int8_static."
                )
        return None

    def training_only_layers(self) -> list:
        """Layers that take no part in an answer."""
        return []

    def run_block(self, block: keras.layers.Layer, tokens: Tensor, **options: Any) -> Tensor:
        """Tokens through one of `blocks`; one of the user's gets those of the options that it takes."""
        if "block" in self.config.custom:
            return custom.call_layer(block, tokens, **options)
        return block(tokens, **options)

    def add_class_tokens(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] behind [CLS] and the distillation token, where the model has them."""
        # Zeros of the batch's size, by arithmetic that leaves no SHAPE operator in a phone's file.
        names = ["cls", "distillation"][: self.class_tokens]
        tokens = [ops.zeros_like(x[:, :1]) + getattr(self, name) for name in names]
        return ops.concatenate([*tokens, x], axis=1) if tokens else x

    def add_registers(self, x: Tensor) -> Tensor:
        """Tokens with the registers after the class tokens."""
        if not self.config.registers:
            return x
        registers = ops.zeros_like(x[:, :1]) + self.registers
        parts = [x[:, : self.class_tokens], registers, x[:, self.class_tokens :]]
        return ops.concatenate(parts if self.class_tokens else parts[1:], axis=1)

    def extend_mask(self, mask: Tensor) -> Tensor | None:
        """A mask of patches [B, N] as one of all tokens, of which those before the patches are real."""
        if mask is None or not self.prefix:
            return mask
        return ops.concatenate([ops.repeat(ops.ones_like(mask[:, :1]), self.prefix, axis=1), mask], axis=1)

    def _merge(self, x, mask):
        patches = self.merger(x[:, self.prefix :], mask=None if mask is None else mask[:, self.prefix :])
        return ops.concatenate([x[:, : self.prefix], patches], axis=1) if self.prefix else patches

    def _pool_and_classify(self, x, mask, training):
        """Logits, or features without a head. DeiT's two class tokens are averaged (section 3.2 there)."""
        pooled = self.pool(x, mask=mask)
        if self.config.distilled:
            second = self.pool(x[:, 1:])
            if self.head is not None:
                logits = self.head(pooled), self.head_distillation(second)
                if self.return_both_heads and training:
                    return ops.stack(logits, axis=1)
                return (logits[0] + logits[1]) / 2
            return (pooled + second) / 2
        return pooled if self.head is None else self.head(pooled)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = input_shape["image"] if isinstance(input_shape, dict) else input_shape
        if self.num_classes:
            return (shape[0], self.num_classes)
        if self.config.pooling is None:
            rows, columns = self.config.grid((shape[1], shape[2]))
            tokens = self.config.merge[1] if self.config.merge else rows * columns
            return (shape[0], tokens, self.config.width)
        return (shape[0], self.config.width)

    def _arguments(self):
        return {
            "config": self.config,
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "preprocessing": self.preprocessing,
            "include_preprocessing": self.include_preprocessing,
            "activation": self.activation,
            "name": self.name,
            "dtype": self.dtype_policy,
            "trainable": self.trainable,
        }

    def get_config(self) -> dict:
        return {
            **self._arguments(),
            "config": self.config.to_dict(),
            "image_size": list(self.image_size),
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict) -> "ViT":
        config = with_new_names(config)
        config["config"] = with_new_names(config["config"])
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return cls(**config)


def _check_classes(num_classes, pooling):
    if num_classes is not None and (
        isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1
    ):
        raise InputError(f"num_classes must be a positive integer or None, not {num_classes!r}.")
    if num_classes is not None and pooling is None:
        raise InputError("pooling=None keeps all tokens, so there is no head: use num_classes=None with it.")
