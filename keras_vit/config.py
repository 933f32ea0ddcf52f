"""`ViTConfig`: the shape of a Vision Transformer, and variant strings such as "Ti/16".

Sizes are those of Dosovitskiy et al. 2020 (arXiv:2010.11929, table 1), Touvron et al. 2020
(DeiT, arXiv:2012.12877) for Ti and S, and Hassani et al. 2021 (arXiv:2104.05704) for Lite.
"""

import dataclasses
import re

from keras_vit.errors import InputError, one_of

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
POOLINGS = ("cls", "mean", None)
POSITIONS = ("learned",)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer; immutable and hashable.

    Attributes:
        patch_size: (height, width) of a patch in pixels; one integer means a square.
        width: length of a token.
        depth: number of encoder blocks.
        heads: attention heads; must divide `width`.
        mlp_width: hidden width of the MLP in each block.
        pooling: "cls" (a learned token), "mean" (over patch tokens) or None (all tokens).
        position: "learned" (one vector for each token).
        dropout: rate after the position encoding and inside each MLP.
        folded: True once `keras_vit.export.fold` has moved the parameters that only rescale
            or shift into their neighbours: no scale and shift in LayerNorm, no bias on patches,
            keys and values, no 1/sqrt(d). Such a model computes the same function.
    """

    patch_size: tuple = (16, 16)
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_width: int = 768
    pooling: str | None = "cls"
    position: str = "learned"
    dropout: float = 0.0
    folded: bool = False

    def __post_init__(self):
        object.__setattr__(self, "patch_size", pair(self.patch_size, "patch_size"))
        for field in ("width", "depth", "heads", "mlp_width"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{field} must be a positive integer, not {value!r}.")
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} is not a multiple of heads {self.heads}: every head takes an "
                f"equal share. Use e.g. width={self.heads * max(1, round(self.width / self.heads))}."
            )
        one_of("pooling", self.pooling, POOLINGS)
        one_of("position", self.position, POSITIONS)
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must be in [0, 1), not {self.dropout!r}.")

    @classmethod
    def of(cls, value, **overrides):
        """A config from a variant string ("Ti/16", "B/16x8"), a dict or a config.

        Args:
            value: what to start from.
            **overrides: fields to replace, e.g. `pooling="mean"`.
        """
        if isinstance(value, str):
            value = cls(**_from_variant(value))
        elif isinstance(value, dict):
            value = cls(**value)
        elif not isinstance(value, cls):
            raise InputError(
                f"a model is a variant such as 'Ti/16' or a ViTConfig, not {type(value).__name__}."
            )
        for name in overrides:
            one_of("ViTConfig field", name, [f.name for f in dataclasses.fields(cls)])
        return dataclasses.replace(value, **overrides)

    def grid(self, image_size):
        """(rows, columns) of patches in an image of `image_size`, one int or (height, width)."""
        size = pair(image_size, "image_size")
        if size[0] % self.patch_size[0] or size[1] % self.patch_size[1]:
            near = [max(1, round(s / p)) * p for s, p in zip(size, self.patch_size, strict=True)]
            raise InputError(
                f"image size {size[0]}x{size[1]} is not a multiple of the patch "
                f"{self.patch_size[0]}x{self.patch_size[1]}: the nearest that is, is {near[0]}x{near[1]}."
            )
        return size[0] // self.patch_size[0], size[1] // self.patch_size[1]

    def to_dict(self):
        """The fields as plain JSON types; `ViTConfig.of` takes them back."""
        return {**dataclasses.asdict(self), "patch_size": list(self.patch_size)}


def _from_variant(text):
    match = re.fullmatch(r"([A-Za-z]+)/(\d+)(?:x(\d+))?", text.strip())
    names = ", ".join(f"{name}/PATCH" for name in VARIANTS)
    if not match or match[1] not in VARIANTS:
        raise InputError(
            f"unknown variant {text!r}: the known ones are {names}, where PATCH is a size in pixels "
            "such as 16 or 16x8."
        )
    width, depth, heads, mlp_width = VARIANTS[match[1]]
    patch_size = (int(match[2]), int(match[3] or match[2]))
    return {"patch_size": patch_size, "width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}


def pair(value, name):
    """(height, width) from one positive integer or two."""
    pair_ = (value, value) if isinstance(value, int) else value
    try:
        height, width = (int(v) for v in pair_)
    except (TypeError, ValueError):
        height = width = 0
    if isinstance(value, bool) or height < 1 or width < 1:
        raise InputError(f"{name} must be a positive integer or (height, width), not {value!r}.")
    return height, width
