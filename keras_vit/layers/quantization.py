"""How layers declare what of them can be quantized: `Quantizable` and `Roles`.

A layer calls `self.fake_quantize(role, tensor)` where a quantized runtime rounds a tensor, and declares which
quantizer each of these roles needs. Profiles of `keras_vit.export` come in four families:

- "token": int8 or int4 kernels; the inputs of matrix products get a range for each token at run time;
- "mixed": the same, and the products inside attention are int8 with trained ranges;
- "static": all matrix products are int8 with trained ranges, everything between them is float;
- "full": every operator is int8.

The quantizers that a role can need:

- "weight": as many bits as the profile has; "int8_weight": 8 in every profile;
- "token": a range for each token;
- "range": one trained range; "symmetric_range": with zero point 0, as XNNPACK demands of the right-hand side
  of a batched product; "biased_range": of scores with a mask added; "inverse_range": of LayerNorm's
  1 / deviation where some tokens are zero;
- "pixels", "image", "probability": the fixed range of pixels 0..255, of normalised pixels, of a softmax;
- "constant": the extremes of a tensor that is no input, such as a table.

A role that is not declared for a family stays float. The order of the roles must not change: saved
quantization-aware models have their quantizers in that order.
"""

import dataclasses
from typing import Any

from keras_vit.config import Tensor


def identity(role: str, tensor: Tensor) -> Tensor:
    """The default of `fake_quantize`: leaves every tensor as it is."""
    return tensor


@dataclasses.dataclass(frozen=True)
class Roles:
    """{role: quantizer} of one layer, for each family of profiles."""

    token: dict[str, str] = dataclasses.field(default_factory=dict)
    mixed: dict[str, str] = dataclasses.field(default_factory=dict)
    static: dict[str, str] = dataclasses.field(default_factory=dict)
    full: dict[str, str] = dataclasses.field(default_factory=dict)

    def with_roles(self, **families: dict[str, str]) -> "Roles":
        """The same with more roles, or other quantizers, in some families."""
        return dataclasses.replace(
            self, **{family: {**getattr(self, family), **roles} for family, roles in families.items()}
        )


class Quantizable:
    """Mixed into layers and models that have tensors to quantize.

    Attributes:
        fake_quantize: a function (role, tensor) -> tensor, which `keras_vit.export` replaces.
        roles: what the layer declares. A layer or model that contains it may replace them.
        is_constant: whether what it computes is the same for all inputs, so that a converter computes it once
            and leaves no operator. Such a layer is not quantized.
    """

    roles = Roles()
    is_constant = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fake_quantize = identity

    def quantization_roles(self, family: str) -> dict[str, str]:
        """{role: quantizer} for the profiles of a family: "token", "mixed", "static" or "full"."""
        return getattr(self.roles, family)
