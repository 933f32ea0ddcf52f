"""`ViTConfig`: the shape of a Vision Transformer, and variant strings such as "Ti/16".

Sizes are those of Dosovitskiy et al. 2020 (arXiv:2010.11929, table 1), Touvron et al. 2020
(DeiT, arXiv:2012.12877) for Ti and S, and Hassani et al. 2021 (arXiv:2104.05704) for Lite.
"""

import dataclasses
import math
import re
from typing import Any

from keras_vit.errors import InputError, one_of
from keras_vit.old_names import CONFIG_OF_FOLDED, RENAMED, without_folded

Tensor = Any  # of the backend or of NumPy, or a keras.KerasTensor
Shape = tuple[int | None, ...]
Size = int | tuple[int, int]  # (height, width) or (rows, columns); one integer for both

VARIANTS = {
    #        width depth heads mlp_width
    "Nano": (64, 4, 4, 128),  # ours: thumbnails such as 8 x 8 digits
    "Lite": (256, 7, 4, 512),  # ViT-Lite-7: small pictures from scratch
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
}
# Variants with other parts too, chosen by their speed on a phone: what each part saves and costs is measured
# by tests/benchmarks/export_peers.py and phone.py. ReLU attention is not among them: it lost accuracy, and
# merging one block earlier saves as much.
PRESETS = {"phone": ("Ti", {"registers": None, "merge": (4, 36)})}
TILE = 16  # tokens that a phone's matrix kernels take at a time
STEMS = ("linear", "conv", "overlapping", "compact")
POSITIONS = (
    "learned",
    "sinusoidal",
    "sincos2d",  # big_vision's convention
    "sincos2d_timm",
    "factorised",
    "coordinates",
    "one_hot",
    "rotary2d",
    "relative",
    "none",
)
ATTENTIONS = ("soft", "hard", "relu")
MLPS = ("gelu", "gelu_tanh", "swiglu")
CUSTOM = ("attention", "mlp", "block")  # the fields that may name a layer of the user's
POOLINGS = ("cls", "mean", "attention", None)
PRESENT = "present"  # the input of a multimodal model that says which of the others are there


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer; immutable and hashable. Each part is a layer of `keras_vit.layers`.

    Attributes:
        patch_size: (height, width) of a patch in pixels; one integer means a square.
        channels: of a picture: 3 for RGB, 1 for grey, any other number for other sensors.
        width: length of a token.
        depth: number of encoder blocks.
        num_heads: attention heads; must divide `width`.
        mlp_width: hidden width of the MLP in each block.
        stem: image to tokens: "linear" (a matrix product on each patch), "conv" (the same function
            as a strided convolution), "overlapping" or "compact" (convolutions and pooling).
        position: "learned", "sinusoidal", "sincos2d" (as in big_vision), "sincos2d_timm", "factorised",
            "coordinates", "one_hot", "rotary2d", "relative" or "none".
        registers: learned tokens without meaning or position, for the model to write on. None: as many as
            bring all tokens to a multiple of 16, which matrix kernels like best.
        pooling: "cls" (a learned token), "mean" (over patch tokens), "attention" or None (all patch tokens).
        distilled: a second [CLS] with a head of its own, as in DeiT; logits are the mean of both heads.
        patch_mask: the model takes {"image", "patch_mask"}: pictures of several sizes in one batch.
        attention: "soft", "hard" (each query sees its `top_k` best keys), "relu", or a layer of your own (see
            `keras_vit.layers.custom`): its class, which is kept as the name it is registered under.
        top_k: number of keys for hard attention.
        qk_norm: LayerNorm on queries and keys.
        mlp: "gelu" (the exact one), "gelu_tanh" (its approximation, as in the original JAX code), "swiglu",
            or a layer of your own.
        block: a layer of your own in the place of every encoder block; None for ours.
        layer_scale: initial value of the factors on each residual branch; None for none.
        epsilon: of every LayerNorm.
        merge: (block, tokens): merge the patch tokens to so many before that block; None for never.
        dropout: rate after the position encoding and inside each MLP.
        attention_dropout: rate on the attention weights.
        stochastic_depth: rate at which the last block is skipped; grows linearly from 0 at the first.
        patch_dropout: share of the patch tokens left out in each training step.
        remat: compute each block again in the backward pass instead of keeping its values: less memory.
        attention_scale: factor on the scores of attention; None for 1/sqrt(d).
        attention_average: whether "relu" attention divides by the number of keys.
        key_bias, value_bias: whether the projections of attention's keys and values have a bias.
        patch_bias: whether the projection of the patches has one.
        norm_affine: whether LayerNorms have scale and shift. Without a head the last one always has.
        norm_centre: whether LayerNorms subtract the mean.
    """

    patch_size: tuple = (16, 16)
    channels: int = 3
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_width: int = 768
    stem: str = "linear"
    position: str = "learned"
    registers: int | None = 0
    pooling: str | None = "cls"
    distilled: bool = False
    patch_mask: bool = False
    attention: str = "soft"
    top_k: int | None = None
    qk_norm: bool = False
    mlp: str = "gelu"
    block: str | None = None
    layer_scale: float | None = None
    epsilon: float = 1e-6
    merge: tuple | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    patch_dropout: float = 0.0
    remat: bool = False
    attention_scale: float | None = None
    attention_average: bool = True
    key_bias: bool = True
    value_bias: bool = True
    patch_bias: bool = True
    norm_affine: bool = True
    norm_centre: bool = True

    def __post_init__(self):
        object.__setattr__(self, "patch_size", pair(self.patch_size, "patch_size"))
        for field in CUSTOM:
            object.__setattr__(self, field, registered_name(field, getattr(self, field)))
        for field in ("channels", "width", "depth", "num_heads", "mlp_width"):
            integer(field, getattr(self, field), at_least=1)
        if self.registers is not None:
            integer("registers", self.registers, at_least=0)
        if self.width % self.num_heads:
            raise InputError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}: every head takes an "
                f"equal share. Use e.g. width={self.num_heads * max(1, round(self.width / self.num_heads))}."
            )
        for field, known in (
            ("stem", STEMS),
            ("position", POSITIONS),
            ("pooling", POOLINGS),
            ("attention", ATTENTIONS),
            ("mlp", MLPS),
            ("block", (None,)),
        ):
            if field not in self.custom:
                one_of(field, getattr(self, field), known)
        for field in ("dropout", "attention_dropout", "stochastic_depth", "patch_dropout"):
            rate(field, getattr(self, field))
        for field in (
            *("distilled", "patch_mask", "qk_norm", "remat", "attention_average"),
            *("key_bias", "value_bias", "patch_bias", "norm_affine", "norm_centre"),
        ):
            boolean(field, getattr(self, field))
        if self.attention_scale is not None:
            positive("attention_scale", self.attention_scale)
        if self.attention == "hard":
            integer("top_k, which attention='hard' needs,", self.top_k, at_least=1)
        elif self.top_k is not None:
            raise InputError(f"top_k={self.top_k!r} belongs to attention='hard', not {self.attention!r}.")
        if self.distilled and self.pooling != "cls":
            raise InputError(f"distilled=True is a second [CLS]: use pooling='cls', not {self.pooling!r}.")
        if self.layer_scale is not None:
            number("layer_scale", self.layer_scale)
        positive("epsilon", self.epsilon)
        if self.merge is not None:
            object.__setattr__(self, "merge", self._checked_merge())

    @property
    def custom(self) -> dict[str, str]:
        """{field: registered name} of the layers of your own: {"attention": "mine>MyAttention"}."""
        values = {field: getattr(self, field) for field in CUSTOM}
        return {field: value for field, value in values.items() if is_registered_name(value)}

    def _checked_merge(self):
        try:
            block, tokens = self.merge
        except (TypeError, ValueError):
            raise InputError(f"merge must be (block, tokens) or None, not {self.merge!r}.") from None
        integer("merge's number of tokens", tokens, at_least=1)
        if integer("merge's block", block, at_least=0) >= self.depth:
            raise InputError(f"merge before block {block}: the blocks are 0 to {self.depth - 1}.")
        return block, tokens

    @classmethod
    def of(cls, value: "str | dict | ViTConfig", **overrides: Any) -> "ViTConfig":
        """A config from a variant string ("Ti/16", "B/16x8"), a dict or a config.

        Args:
            value: what to start from.
            **overrides: fields to replace, e.g. `pooling="mean"`.
        """
        if isinstance(value, str):
            value = cls(**_from_variant(value))
        elif isinstance(value, dict):
            value = without_folded(value, CONFIG_OF_FOLDED)
            cls._known(value)
            value = cls(**value)
        elif not isinstance(value, cls):
            raise InputError(
                f"a model is a variant such as 'Ti/16' or a ViTConfig, not {type(value).__name__}."
            )
        cls._known(overrides)
        return dataclasses.replace(value, **overrides)

    @classmethod
    def _known(cls, names):
        for name in names:
            if name in RENAMED:
                raise InputError(f"{name} is called {RENAMED[name]} since version 0.2.")
            one_of("ViTConfig field", name, [f.name for f in dataclasses.fields(cls)])

    def grid(self, image_size: Size) -> tuple[int, int]:
        """(rows, columns) of patches in an image of `image_size`, one int or (height, width)."""
        size = pair(image_size, "image_size")
        if size[0] % self.patch_size[0] or size[1] % self.patch_size[1]:
            near = [max(1, round(s / p)) * p for s, p in zip(size, self.patch_size, strict=True)]
            raise InputError(
                f"image size {size[0]}x{size[1]} is not a multiple of the patch "
                f"{self.patch_size[0]}x{self.patch_size[1]}: the nearest that is, is {near[0]}x{near[1]}."
            )
        return size[0] // self.patch_size[0], size[1] // self.patch_size[1]

    def for_size(self, image_size: Size) -> "ViTConfig":
        """This config with its registers counted for images of `image_size`."""
        rows, columns = self.grid(image_size)
        if self.registers is not None:
            return self
        others = rows * columns + (self.pooling == "cls") + self.distilled
        return dataclasses.replace(self, registers=-others % TILE)

    def to_dict(self) -> dict:
        """The fields as plain JSON types; `ViTConfig.of` takes them back."""
        return {
            **dataclasses.asdict(self),
            "patch_size": list(self.patch_size),
            "merge": list(self.merge) if self.merge else None,
        }


def _from_variant(text):
    match = re.fullmatch(r"([A-Za-z]+)/(\d+)(?:x(\d+))?", text.strip())
    names = ", ".join(f"{name}/PATCH" for name in (*VARIANTS, *PRESETS))
    if not match or match[1] not in {**VARIANTS, **PRESETS}:
        raise InputError(
            f"unknown variant {text!r}: the known ones are {names}, where PATCH is a size in pixels "
            "such as 16 or 16x8."
        )
    name, parts = PRESETS.get(match[1], (match[1], {}))
    width, depth, num_heads, mlp_width = VARIANTS[name]
    patch_size = (int(match[2]), int(match[3] or match[2]))
    shape = {"width": width, "depth": depth, "num_heads": num_heads, "mlp_width": mlp_width}
    return {"patch_size": patch_size, **shape, **parts}


def is_registered_name(value: Any) -> bool:
    """Whether `value` looks like a name that Keras registers a class under: "package>Class"."""
    return isinstance(value, str) and ">" in value


def registered_name(field: str, value: Any) -> Any:
    """The name under which a class or function is registered with Keras; any other value as it is.

    Raises:
        InputError: a class or function that is not registered, so that no saved model could find it again.
    """
    if not callable(value):
        return value
    import keras  # whoever made the layer has it; a config alone goes without

    name = keras.saving.get_registered_name(value)
    if keras.saving.get_registered_object(name) is not value:
        called = getattr(value, "__name__", type(value).__name__)
        raise InputError(
            f"{field}={called} is not registered with Keras, so no saved model could find it again: write "
            f'@keras.saving.register_keras_serializable("mine") above it.'
        )
    return name


def pair(value: Any, name: str) -> tuple[int, int]:
    """(height, width) from one positive integer or two."""
    pair_ = (value, value) if isinstance(value, int) else value
    try:
        height, width = (int(v) for v in pair_)
        if (height, width) != tuple(pair_):
            height = width = 0
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if isinstance(value, bool) or height < 1 or width < 1:
        raise InputError(f"{name} must be a positive integer or (height, width), not {value!r}.")
    return height, width


def integer(name: str, value: Any, at_least: int) -> int:
    """`value`, or an InputError when it is no integer from `at_least` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        kind = {0: "a non-negative integer", 1: "a positive integer"}.get(
            at_least, f"an integer from {at_least}"
        )
        raise InputError(f"{name} must be {kind}, not {value!r}.")
    return value


def number(name: str, value: Any) -> float:
    """`value`, or an InputError when it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, not {value!r}.")
    return value


def positive(name: str, value: Any) -> float:
    """`value`, or an InputError when it is no finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} must be a number above 0, not {value!r}.")
    return value


def rate(name: str, value: Any) -> float:
    """`value`, or an InputError when it is no number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise InputError(f"{name} must be in [0, 1), not {value!r}.")
    return value


def boolean(name: str, value: Any) -> bool:
    """`value`, or an InputError when it is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, not {value!r}.")
    return value
