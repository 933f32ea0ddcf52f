"""The ways in which a model can be quantized, each a name that people choose from."""

import dataclasses

from keras_vit.errors import one_of


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a profile does to a model.

    Attributes:
        name: what people type.
        activations: "float"; "token" (int8, the range of each token taken while running);
            "static" (int8, one trained range for each tensor).
        purpose: for help texts.
    """

    name: str
    activations: str
    purpose: str

    @property
    def quantized(self):
        return self.activations != "float"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("float32", "float", "the reference"),
        Profile("int8", "token", "weights int8 per channel, activations per token at run time: phone CPUs"),
        Profile("int8_static", "static", "matmuls int8 with trained ranges: the fastest on CPUs"),
    )
}


def profile_named(name, quantized=False):
    """The `Profile` called `name`; with `quantized`, float32 does not count.

    Raises:
        InputError: unknown; the message lists the known ones.
    """
    known = [p.name for p in PROFILES.values() if p.quantized or not quantized]
    return PROFILES[one_of("profile", name, known)]
