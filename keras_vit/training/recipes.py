"""`Recipe`: everything that decides how a model is trained, in one printable, saved object."""

import dataclasses
import json

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError, one_of

SMALL_TRUNK = {"width": 128, "depth": 4, "num_heads": 4}  # of a MultimodalViT
DISTILLATIONS = ("none", "hard", "soft")
AUGMENTATIONS = ("none", "affine", "light", "crop", "strong")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. Saved in a run's config.json; a run goes on only under the same recipe.

    Attributes:
        variant: model, e.g. "Ti/16" (see `keras_vit.config`), or the fields of a `ViTConfig`.
        image_size: (height, width) in pixels.
        channels: of the pictures, 1 for grey; None: those of the variant, 3 unless it says others.
        pooling: "cls", "mean" or "attention".
        epochs: passes over the training images.
        batch_size: images for each step.
        learning_rate: the peak; it warms up linearly and falls as a cosine to zero.
        warmup_epochs: length of the warm-up.
        weight_decay: of AdamW; spares biases, norms, positions and [CLS].
        label_smoothing: share of the label spread over all classes (Szegedy et al. 2015).
        dropout: rate in the model.
        layer_decay: factor on the learning rate from each block to the one before it; 1 for none.
        freeze: keep the patches and that many first blocks as they are.
        augment: "none", "affine" (turn, stretch, shear, move), "light" (random crop, mirror), "crop" (pad and
            crop, mirror) or "strong" (that, RandAugment, erasing, MixUp or CutMix).
        precision: "float32" or "mixed_bfloat16".
        early_stop: stop after that many epochs without a better held-out accuracy, and keep the
            best epoch; 0 trains to the end and keeps the last.
        ema: evaluate and save the moving average of the weights, of this momentum (see
            `training.optimization.averaging`), e.g. 0.999; 0 for none.
        accumulate: compute a batch's gradient in so many parts, one after the other, for less memory; the
            result is the same.
        distill: learn from a teacher too (see `training.distillation`): "none", "hard" or "soft".
        distill_weight: the teacher's share of the loss.
        temperature: of both models' answers, for "soft".
        distillation_token: give the model a second [CLS] and head that learn from the teacher.
        seed: of initial weights, order, augmentation and dropout.
    """

    variant: str | dict = "Ti/16"
    image_size: tuple = (224, 224)
    channels: int | None = None
    pooling: str = "cls"
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup_epochs: float = 5
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    dropout: float = 0.0
    layer_decay: float = 1.0
    freeze: int = 0
    augment: str = "light"
    precision: str = "float32"
    early_stop: int = 0
    ema: float = 0.0
    accumulate: int = 1
    distill: str = "none"
    distill_weight: float = 0.5
    temperature: float = 3.0
    distillation_token: bool = False
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if isinstance(self.variant, dict):
            # As config.json gives it back, or a run would not know its own recipe again.
            plain = {key: list(v) if isinstance(v, tuple) else v for key, v in self.variant.items()}
            object.__setattr__(self, "variant", plain)
        one_of("augmentation", self.augment, AUGMENTATIONS)
        one_of("precision", self.precision, ("float32", "mixed_bfloat16"))
        one_of("pooling", self.pooling, ("cls", "mean", "attention"))
        one_of("kind of distillation", self.distill, DISTILLATIONS)
        for field, low, high in (
            ("epochs", 1, None),
            ("batch_size", 1, None),
            ("learning_rate", 1e-12, None),
            ("warmup_epochs", 0, None),
            ("weight_decay", 0, None),
            ("label_smoothing", 0, 0.999),
            ("early_stop", 0, None),
            ("layer_decay", 1e-3, 1),
            ("ema", 0, 0.999999),
            ("accumulate", 1, None),
            ("distill_weight", 0, 1),
            ("temperature", 1e-3, None),
        ):
            value = getattr(self, field)
            if value < low or (high is not None and value > high):
                limit = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
                raise InputError(f"{field} must be {limit}, not {value!r}.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"a batch of {self.batch_size} cannot be divided into {self.accumulate} equal parts: "
                "accumulate must divide batch_size."
            )
        self.check_model()

    def check_model(self):
        """Raise an InputError where the model cannot be built."""
        if self.freeze < 0:
            raise InputError(f"freeze must be at least 0, not {self.freeze!r}.")
        if self.distillation_token and self.distill == "none":
            raise InputError("a distillation token learns from a teacher: say which, and how to distill.")
        self.model_config().grid(self.image_size)

    def check_fixed(self, fields, why):
        """Raise an InputError where one of {field: value} has another value."""
        for field, value in fields.items():
            if getattr(self, field) != value:
                raise InputError(f"{field}={getattr(self, field)!r} {why}: leave it out.")

    def model_config(self):
        said = {"distilled": True} if self.distillation_token else {}
        if self.channels is not None:
            said["channels"] = self.channels
        return ViTConfig.of(self.variant, pooling=self.pooling, dropout=self.dropout, **said)

    def build(self, num_classes):
        """The model, with fresh weights, compiled for nothing yet."""
        from keras_vit.models import ViT

        return ViT(self.model_config(), self.image_size, num_classes, dtype=self.precision)

    def to_dict(self):
        return {**dataclasses.asdict(self), "image_size": list(self.image_size)}


@dataclasses.dataclass(frozen=True)
class MultimodalRecipe(Recipe):
    """How to train a `MultimodalViT`; the fields are those of `Recipe`, but for these.

    Attributes:
        variant: arguments of `MultimodalViT` except modalities and classes.
        modalities: [[name, modality as `keras.saving.serialize_keras_object` gives it]], in their order.
        image_size, channels, pooling, layer_decay, augment, distill: have no meaning here, and stay as they
            are. (A mirrored picture would make "left of" wrong.)
        freeze: names of modalities, or of blocks such as "block_0", whose weights stay as they start, such as
            a vision module that was trained before.
    """

    variant: dict = dataclasses.field(default_factory=lambda: dict(SMALL_TRUNK))
    modalities: list = dataclasses.field(default_factory=list)
    freeze: list = dataclasses.field(default_factory=list)  # type: ignore[assignment]  # names, not a number
    augment: str = "none"
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_epochs: float = 1
    label_smoothing: float = 0.0

    def check_model(self):
        fixed = {
            "channels": None,
            "pooling": "cls",
            "layer_decay": 1.0,
            "augment": "none",
            "distill": "none",
            "distillation_token": False,
        }
        self.check_fixed(fixed, "is for models of images alone")
        for key in ("modalities", "num_classes"):
            if key in self.variant:
                raise InputError(
                    f"{key} of a multimodal model come from the data: leave them out of variant."
                )
        object.__setattr__(self, "modalities", json.loads(json.dumps(self.modalities)))
        if self.freeze and not isinstance(self.freeze, list | tuple):
            raise InputError(f"freeze must be a list of modalities and blocks, not {self.freeze!r}.")
        object.__setattr__(self, "freeze", list(self.freeze or ()))
        blocks = [f"block_{i}" for i in range(self.variant.get("depth", 0))]
        for name in self.freeze:
            one_of("part to freeze", name, [*(key for key, _ in self.modalities), *blocks])

    def build(self, num_classes):
        from keras_vit.models import MultimodalViT

        options = {
            "dropout": self.dropout,
            **self.variant,
            "dtype": self.precision,
            "num_classes": num_classes,
        }
        return MultimodalViT.from_config({**options, "modalities": self.modalities})


@dataclasses.dataclass(frozen=True)
class PretrainingRecipe(Recipe):
    """How to pretrain a `MaskedViT` without labels; the fields are those of `Recipe`, and these.

    Attributes:
        mode: "simmim" or "mae" (see `keras_vit.models.masked`).
        ratio: share of the patches that is hidden.
        normalise: predict patches without their own brightness and contrast (He et al. 2021, section 3).
        label_smoothing, layer_decay, freeze, early_stop, distill: have no meaning without labels.
    """

    mode: str = "simmim"
    ratio: float = 0.6
    normalise: bool = True
    label_smoothing: float = 0.0

    def check_model(self):
        fixed = {
            "label_smoothing": 0.0,
            "layer_decay": 1.0,
            "freeze": 0,
            "early_stop": 0,
            "distill": "none",
            "distillation_token": False,
        }
        self.check_fixed(fixed, "has no meaning without labels")
        one_of("mode", self.mode, ("simmim", "mae"))
        if not 0 < self.ratio < 1:
            raise InputError(f"ratio must be between 0 and 1, e.g. 0.6, not {self.ratio!r}.")
        super().check_model()

    def build(self, num_classes):
        """The `MaskedViT`, with fresh weights; no classes."""
        from keras_vit.models import ViT

        return self.around(ViT(self.model_config(), self.image_size, num_classes=None, dtype=self.precision))

    def around(self, encoder):
        """The `MaskedViT` around a `ViT`."""
        from keras_vit.losses import MaskedReconstruction
        from keras_vit.models import MaskedViT

        kind = "l1" if self.mode == "simmim" else "l2"
        return MaskedViT(encoder, self.ratio, self.mode, MaskedReconstruction(self.normalise, kind))


def recipe_class(config):
    """The class of the recipe that gave `config` by `to_dict`."""
    return MultimodalRecipe if "modalities" in config else PretrainingRecipe if "mode" in config else Recipe


def recipe_from(config):
    """The recipe that `to_dict` gave, as a run's config.json keeps it. Raises InputError."""
    kind = recipe_class(config)
    unknown = set(config) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise InputError(
            f"the recipe of a run has {sorted(unknown)[0]!r}, which no recipe has: restore its config.json."
        )
    return kind(**config)


def pretraining_recipe(name=None, image_size=None, **overrides):
    """A `PretrainingRecipe`: model and batches of `recipe(name, image_size)`, with fields replaced."""
    base = recipe(name, image_size).to_dict()
    for key in ("label_smoothing", "dropout", "weight_decay"):
        del base[key]  # those are for labels, which are learned by heart sooner
    return PretrainingRecipe(**{**base, **_given(PretrainingRecipe, overrides)})


def multimodal_recipe(data, **overrides):
    """The `MultimodalRecipe` for a `MultimodalData`, with fields replaced; None values are ignored."""
    import keras

    modalities = [
        [name, keras.saving.serialize_keras_object(modality)] for name, modality in data.modalities.items()
    ]
    for name, modality in modalities:
        modality["config"]["name"] = name  # not the one that Keras counts up with each new layer
    return MultimodalRecipe(**{**_given(MultimodalRecipe, overrides), "modalities": modalities})


def _given(kind, overrides):
    """The overrides that are not None; raises InputError for one that is no field of `kind`."""
    given = {key: value for key, value in overrides.items() if value is not None}
    for key in given:
        one_of("recipe field", key, [f.name for f in dataclasses.fields(kind)])
    return given


RECIPES = {
    # Thumbnails. `keras-vit train digits --out RUN`: 1 to 2 minutes on 2 cores, 97.2% to 98.1% (4 seeds).
    "thumbnails": Recipe(
        variant="Nano/2",
        image_size=(8, 8),
        pooling="mean",
        epochs=80,
        batch_size=128,
        learning_rate=4e-3,
        weight_decay=0.3,
        dropout=0.1,
        augment="affine",
    ),
    # Small pictures from scratch, e.g. CIFAR-10.
    "small": Recipe(
        variant="Lite/4",
        image_size=(32, 32),
        pooling="mean",
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        warmup_epochs=5,
        weight_decay=0.06,
    ),
    # The same in 45 minutes on two cores: 80.9% (seed 0). CCT-2/3x2 of Hassani et al. 2021, but for pooling.
    "compact": Recipe(
        variant={
            "patch_size": 4,
            "stem": "compact",
            "width": 128,
            "depth": 2,
            "num_heads": 2,
            "mlp_width": 128,
        },
        image_size=(32, 32),
        pooling="mean",
        epochs=28,
        batch_size=64,
        learning_rate=1e-3,
        warmup_epochs=1,
        augment="crop",
    ),
    # Photographs.
    "standard": Recipe(),
}


def recipe(name=None, image_size=None, **overrides):
    """A `Recipe` by name, or the one that suits an image size, with fields replaced.

    Args:
        name: "thumbnails", "small", "compact" or "standard"; None chooses by `image_size`: up to 16 pixels,
            up to 64, larger.
        image_size: (height, width); kept in the recipe.
        **overrides: fields of `Recipe`; None values are ignored.
    """
    if name is None:
        shorter = min(image_size) if image_size is not None else 224
        name = "thumbnails" if shorter <= 16 else "small" if shorter <= 64 else "standard"
    base = RECIPES[one_of("recipe", name, RECIPES)]
    return dataclasses.replace(base, **_given(Recipe, {**overrides, "image_size": image_size}))


def trunk(variant):
    """(arguments of `MultimodalViT`, patch size or None) of a variant such as "Ti/16"; None: a small one."""
    if variant is None:
        return dict(SMALL_TRUNK), None
    config = ViTConfig.of(variant)
    shape = {key: getattr(config, key) for key in ("width", "depth", "num_heads", "mlp_width")}
    return shape, config.patch_size[0]
