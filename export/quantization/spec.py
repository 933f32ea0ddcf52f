"""Which tensor of a folded model gets which fake quantizer, for each profile.

A tensor is named by its layer and its role there, for example "block_0.attention.query.input". The layers
declare their roles themselves, see `keras_vit.layers.quantization`. The quantizers are those of
`export.quantization.fake_quant`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from keras_vit._compat import flatten_layers
from keras_vit.errors import InputError
from keras_vit.export.profiles import Profile
from keras_vit.export.quantization.fake_quant import BLOCK
from keras_vit.layers.quantization import Quantizable
from keras_vit.models.transfer import name_within

EXAMPLES = "block_0, block_0.mlp, block_0.attention, head"


def quantizable_layers(model: Any) -> Iterator[tuple[str, Quantizable]]:
    """Yield (dotted name, layer) for every layer of `model` with roles for quantization, itself as "model".

    Layers that only training has are left out.
    """
    yield "model", model
    left_out = {id(inner) for layer in model.training_only_layers() for inner in flatten_layers(layer)}
    for layer in flatten_layers(model, include_self=False):
        if isinstance(layer, Quantizable) and id(layer) not in left_out:
            yield name_within(model, layer).replace("/", "."), layer


def check_takes(profile: Profile, model: Any) -> None:
    """Raise an InputError when a folded model has a part that `profile` cannot quantize."""
    reason = model.unsupported_by(profile.activations)
    if reason:
        raise InputError(f"{profile.name} cannot take {reason}")


def quantization_spec(model: Any, profile: Profile, protect: Iterable[str] = ()) -> dict[str, str]:
    """{"layer.role": quantizer} for a folded `ViT` or `MultimodalViT`.

    Args:
        protect: names of layers, or of what contains them, that stay float.

    Raises:
        InputError: a name in `protect` that no layer has.
    """
    protect, spec, protected = set(protect), {}, set()
    for name, layer in quantizable_layers(model):
        parts = {part for part in protect if name == part or name.startswith(f"{part}.")}
        protected |= parts
        if parts or layer.is_constant:
            continue
        for role, quantizer in layer.quantization_roles(profile.activations).items():
            spec[f"{name}.{role}"] = _in_profile(quantizer, layer, profile)
    unknown = sorted(protect - protected)
    if unknown:
        raise InputError(f"there is no layer {unknown[0]!r} to protect: names look like {EXAMPLES}.")
    return spec


def _in_profile(quantizer: str, layer: Any, profile: Profile) -> str:
    """What a layer declares, with the bits of the profile; blocks are for kernels that they fill."""
    if quantizer == "int8_weight":
        return "weight"
    if quantizer != "weight":
        return quantizer
    if profile.weights == "weight4_block" and layer.kernel.shape[0] % BLOCK:
        return "weight4"
    return profile.weights
