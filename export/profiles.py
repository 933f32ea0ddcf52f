"""The ways in which a model can be quantized, each a name that people choose from."""

import dataclasses

from keras_vit.errors import one_of


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a profile does to a model.

    Attributes:
        name: what people type.
        activations: "float"; "token" (int8, the range of each token taken while running);
            "mixed" (so are the inputs of projections; attention's products are int8 with trained ranges);
            "static" (int8 around the matmuls, one trained range for each tensor); "full" (all of them; of a
            multimodal model all but masks and what comes before the first projection of sounds and tracks).
        weights: kind of the kernels: "weight" (int8), "weight4" (int4) or "weight4_block", see
            `export.quantization.fake_quant`; None for float ones.
        purpose: for help texts.
    """

    name: str
    activations: str
    weights: str | None
    purpose: str

    @property
    def quantized(self):
        return self.activations != "float"

    @property
    def has_trained_ranges(self):
        return self.activations in ("mixed", "static", "full")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("float32", "float", None, "the reference"),
        Profile("float16", "float", None, "half the size: GPUs"),
        Profile("int8", "token", "weight", "weights int8, activations per token at run time: phone CPUs"),
        Profile("int8_mixed", "mixed", "weight", "int8 per token, attention int8: the fastest on some CPUs"),
        Profile("int4", "token", "weight4", "weights int4 per channel: the smallest"),
        Profile("int4_block", "token", "weight4_block", "weights int4 in blocks of 32: small and truer"),
        Profile("int8_static", "static", "weight", "matmuls int8 with trained ranges: the fastest on CPUs"),
        Profile("int8_full", "full", "weight", "every operator int8, uint8 in and out: NPUs, Edge TPUs"),
    )
}


def profile_named(name, quantized=False):
    """The `Profile` called `name`; with `quantized`, the float ones do not count.

    Raises:
        InputError: unknown; the message lists the known ones.
    """
    known = [p.name for p in PROFILES.values() if p.quantized or not quantized]
    return PROFILES[one_of("profile", name, known)]
