"""`MultimodalViT`: one trunk that attends over the tokens of several modalities.

each input -> its modality -> tokens + modality embedding
[CLS] + all tokens -> blocks -> norm -> [CLS] -> logits

The founding text's two stages are both here. Stage one: a `Text` with a visual sentence predicts what the
picture's features would be, and the model classifies from that alone (give no image). Stage two: the
trunk attends over the predicted visual tokens and the real ones (give both). What an input lacks is
said by `present`, or by leaving it out.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit._compat import flatten_layers
from keras_vit.config import PRESENT, Shape, Tensor, boolean, integer, number, rate
from keras_vit.errors import one_of
from keras_vit.layers import EncoderBlock, LayerNorm, Linear, depth_rates
from keras_vit.layers.linear import ACCURATE_ROLES
from keras_vit.layers.masks import as_bias, as_mask
from keras_vit.layers.pooling import Pooling
from keras_vit.layers.quantization import Quantizable, Roles
from keras_vit.modalities import VisualPrediction, deserialized
from keras_vit.models.activation import AUTO, WithActivation, inherited_activation
from keras_vit.models.base import Model, shapes_of
from keras_vit.models.feature_prediction import PredictsFeatures
from keras_vit.models.multimodal_inputs import NamedInputs, checked_modalities
from keras_vit.old_names import Renamed

FUSIONS = ("single_stream", "bottleneck")


@keras.saving.register_keras_serializable("keras_vit")
class MultimodalViT(Renamed, Quantizable, WithActivation, PredictsFeatures, NamedInputs, Model):
    """A Vision Transformer over any set of modalities. Inputs by name give logits [B, num_classes].

        model = MultimodalViT({"image": Image(32, 4), "text": Text(vocabulary, length=16)},
                              width=128, depth=6, num_heads=4, num_classes=10)
        logits = model({"image": pixels, "text": ids})                # both
        logits = model({"text": ids})                                 # no image at all
        logits = model({"image": pixels, "text": ids, "present": p})  # p float [B, 2]: 0 where one is absent

    All modalities share the trunk: a further one adds its tokenizer and one vector, nothing else. What
    stands in an absent input changes nothing, NaN included; [CLS] is always there, so no row is ever empty.

    Args:
        modalities: {name: `Modality`}; `present` has one column for each, in this order. Each gets the
            model's width (see `Modality.with_width`).
        width, depth, num_heads: of the trunk.
        num_classes: number of classes; None for no head: the output is the feature [B, width].
        mlp_width: 4 times the width by default.
        fusion: "single_stream" (all tokens see each other) or "bottleneck" (tokens of different modalities
            see each other only through `bottleneck` learned tokens; Nagrani et al. 2021, arXiv:2107.00135,
            section 3.2), written as an attention mask on the same trunk.
        bottleneck: number of those tokens.
        modality_dropout: rate at which each present modality is dropped from an example in training; one
            always stays.
        visual_weight: weight of the loss by which a visual sentence (`Text(..., sentence=K)`) learns to
            predict the features of the `Image` (see `visual_features`), where both are present.
        visual_loss: "cosine" or "l2".
        dropout, stochastic_depth: as in `ViTConfig`.
        attention: dictionary of further arguments of the blocks' `Attention`: scale, key_bias, ...
        affine: whether norms have scale and shift. Without a head the last one always has.
        activation: "auto", "softmax", "sigmoid" or None: what files make of the logits, as in `ViT`.
        seed: of modality dropout; None for a random one, which `keras.utils.set_random_seed` decides.

    Raises:
        InputError: no modality, one named "present", an unknown fusion or activation, a softmax over one
            class; a `visual_weight` without a visual sentence and an image. When called: a name that is no
            modality, nothing given, `present` of another width or with a row of zeros.
    """

    roles = Roles(full={"joined": "range"})  # what enters the trunk
    of_folded = ("attention", "affine")

    def __init__(
        self,
        modalities: dict,
        width: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        num_classes: int | None = 1000,
        mlp_width: int | None = None,
        fusion: str = "single_stream",
        bottleneck: int = 4,
        modality_dropout: float = 0.0,
        visual_weight: float = 0.0,
        visual_loss: str = "cosine",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        attention: dict | None = None,
        affine: bool = True,
        activation: str = AUTO,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        shared = {"dtype": self.dtype_policy}
        self.width, self.depth = integer("width", width, 1), integer("depth", depth, 1)
        self.num_heads, self.mlp_width = num_heads, 4 * width if mlp_width is None else mlp_width
        self.num_classes = num_classes if num_classes is None else integer("num_classes", num_classes, 1)
        self.activation = activation
        self.fusion = one_of("fusion", fusion, FUSIONS)
        self.bottleneck = integer("bottleneck", bottleneck, 1)
        self.modality_dropout = rate("modality_dropout", modality_dropout)
        self.visual_weight, self.visual_loss = number("visual_weight", visual_weight), visual_loss
        self.dropout, self.stochastic_depth = dropout, stochastic_depth
        self.attention_options, self.affine = dict(attention or {}), boolean("affine", affine)
        self.modalities = {
            key: modality.with_width(width, num_heads=num_heads, name=key, dtype=self.dtype_policy)
            for key, modality in checked_modalities(modalities).items()
        }
        self.seed = seed
        self.seeds = keras.random.SeedGenerator(seed)
        self.drop = keras.layers.Dropout(dropout, name="drop", **shared)
        self.blocks = [
            EncoderBlock(
                num_heads,
                self.mlp_width,
                dropout=dropout,
                stochastic_depth=skip_rate,
                attention=self.attention_options,
                affine=affine,
                name=f"block_{i}",
                **shared,
            )
            for i, skip_rate in enumerate(depth_rates(stochastic_depth, depth))
        ]
        self.norm = LayerNorm(affine=affine or not num_classes, name="norm", **shared)
        self.mean = Pooling("mean", name="mean", **shared)
        self.head = (
            Linear(num_classes, kernel_initializer="zeros", name="head", **shared) if num_classes else None
        )
        self.prediction = self._predicted = None
        if self.visual_weight:
            self._sentence, self._picture = self._pair_to_predict()
            self.prediction = VisualPrediction(width, name="prediction", **shared)
        self.build_now(shapes_of(self.input_signature()))

    built: bool

    def build(self, input_shape: Shape | None = None) -> None:
        if self.built:
            return
        for modality in self.modalities.values():
            if not modality.built:
                modality.build((None, *modality.signature()["shape"]))
        vector = keras.initializers.RandomNormal(stddev=0.02)
        self.cls = self.add_weight(shape=(1, 1, self.width), initializer="zeros", name="cls")
        self.embedding = self.add_weight(
            shape=(len(self.modalities), self.width), initializer=vector, name="modality"
        )
        if self.fusion == "bottleneck":
            self.passage = self.add_weight(
                shape=(1, self.bottleneck, self.width), initializer=vector, name="bottleneck"
            )
        tokens = (None, None, self.width)
        layers: list[Any] = [*self.blocks, self.norm, self.mean]
        for layer in layers:
            layer.build(tokens)
        if self.head is not None:
            self.head.build((None, self.width))
        if self.prediction is not None:
            self.prediction.build(tokens)
        self._declare_roles()
        self.built = True

    def _declare_roles(self):
        for block in self.blocks:
            block.attention.adds_bias = True
        if self.head is not None:
            self.head.roles = ACCURATE_ROLES
        for layer in flatten_layers(self, include_self=False):
            if isinstance(layer, LayerNorm):
                layer.zero_tokens = True  # those that the mask leaves out

    def unsupported_by(self, family: str) -> str | None:
        """Why no profile of a family (see `layers.quantization`) can quantize this model, or None.

        Of "full" these stay float: masks, spectrograms, tracks until they are projected, patches of other
        stems than "linear" and "compact", and modalities of your own up to the trunk.
        """
        return None

    def training_only_layers(self) -> list:
        """Layers that take no part in an answer."""
        return [] if self.prediction is None else [self.prediction]

    def call(self, inputs: dict, training: bool | None = None) -> Tensor:
        names = [name for name in self.modalities if name in inputs]
        present = self._present(inputs, names, training)
        tokens, masks = {}, {}
        for i, name in enumerate(names):
            here = None if present is None else present[:, i : i + 1]  # no slice that drops an axis
            tokens[name], masks[name] = self.modalities[name](inputs[name], present=here, training=training)
        if training and self.prediction is not None and {self._sentence, self._picture} <= set(names):
            self._predicted = self._prediction(tokens, masks)
        x, mask = self._joined(tokens, masks)
        # Tokens that the mask leaves out are 0 and [CLS] is always seen, so one addition does it.
        bias = as_bias(mask)
        x = self.drop(self.fake_quantize("joined", x), training=training)
        for i, block in enumerate(self.blocks):
            num_queries = 1 if i == len(self.blocks) - 1 else None  # only [CLS] leaves the last block
            x = block(x, bias=bias, num_queries=num_queries, training=training)
        feature = ops.reshape(self.norm(x)[:, :1], (-1, self.width))
        return feature if self.head is None else self.head(feature)

    def _present(self, inputs, names, training):
        """Boolean [B, names], or None when all of them are: what is given, after modality dropout."""
        columns = [i for i, name in enumerate(self.modalities) if name in names]
        present = None
        if PRESENT in inputs:
            present = as_mask(ops.take(inputs[PRESENT], columns, axis=1))
        if not (training and self.modality_dropout and len(names) > 1):
            return present
        draw = keras.random.uniform(
            (ops.shape(inputs[names[0]])[0], len(names)), dtype="float32", seed=self.seeds
        )
        if present is not None:
            draw = ops.where(present, draw, -1.0)
        # Of those that are there the luckiest always stays.
        stays = ops.logical_or(
            ops.greater_equal(draw, self.modality_dropout),
            ops.equal(draw, ops.max(draw, axis=1, keepdims=True)),
        )
        return stays if present is None else ops.logical_and(stays, present)

    def _joined(self, tokens, masks):
        """(all tokens [B, N, width], their mask: of tokens [B, N], or of pairs [B, N, N])."""
        some = next(iter(tokens.values()))
        parts, groups = [ops.zeros_like(some[:, :1]) + ops.cast(self.cls, some.dtype)], [0]
        seen = [ops.ones_like(some[:, :1, 0], dtype="bool")]
        if self.fusion == "bottleneck":
            parts.append(ops.zeros_like(some[:, :1]) + ops.cast(self.passage, some.dtype))
            seen.append(ops.repeat(seen[0], self.bottleneck, axis=1))
            groups += [1] * self.bottleneck
        for i, name in enumerate(self.modalities):
            if name in tokens:
                real = ops.cast(ops.expand_dims(masks[name], 2), some.dtype)
                parts.append(tokens[name] + real * ops.cast(self.embedding[i], some.dtype))
                seen.append(masks[name])
                groups += [2 + i] * tokens[name].shape[1]
        x, seen = ops.concatenate(parts, axis=1), ops.concatenate(seen, axis=1)
        if self.fusion == "single_stream":
            return x, seen
        groups = np.array(groups)
        queries, keys = groups[:, None], groups[None, :]
        # [CLS] sees all and is seen by none, or it would be one more token of the bottleneck.
        allowed = (queries == keys) | (queries == 0) | ((queries == 1) & (keys > 0)) | (keys == 1)
        return x, ops.logical_and(ops.expand_dims(seen, 1), ops.convert_to_tensor(allowed[None]))

    def recast(self, **changes: Any) -> "MultimodalViT":
        """A new model of this one's config with some arguments changed, of fresh weights, in float32.

        The dtype of modalities, and the `attention` and `affine` of those that have blocks, follow the model.
        """
        usual = {"dtype": "float32", "activation": inherited_activation(self)}
        config = {**self.get_config(), **usual, **changes}
        for _, modality in config["modalities"]:
            modality["config"]["dtype"] = None
            for name in {"attention", "affine"} & set(modality["config"]) & set(changes):
                modality["config"][name] = changes[name]
        return type(self).from_config(config)

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        batch = next(iter(input_shape.values()))[0]
        return (batch, self.num_classes or self.width)

    def get_config(self) -> dict:
        return {
            "modalities": [
                [key, keras.saving.serialize_keras_object(m)] for key, m in self.modalities.items()
            ],
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "num_classes": self.num_classes,
            "mlp_width": self.mlp_width,
            "fusion": self.fusion,
            "bottleneck": self.bottleneck,
            "modality_dropout": self.modality_dropout,
            "visual_weight": self.visual_weight,
            "visual_loss": self.visual_loss,
            "dropout": self.dropout,
            "stochastic_depth": self.stochastic_depth,
            "attention": self.attention_options,
            "affine": self.affine,
            "activation": self.activation,
            "seed": self.seed,
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict) -> "MultimodalViT":
        config = cls.with_new_arguments(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        config["modalities"] = deserialized(config["modalities"])
        return cls(**config)
