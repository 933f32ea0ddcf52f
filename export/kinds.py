"""Which tensor of a folded ViT gets which fake quantizer, for each profile.

A tensor is named by its layer and the role that the layer's `quantize` hook calls it by, for example
"block_0.attention.query.input". The kinds are those of `export.quantizers`.
"""

from keras_vit.errors import InputError
from keras_vit.export.quantizers import BLOCK
from keras_vit.layers import (
    Attention,
    Convolution,
    DecoderBlock,
    EncoderBlock,
    LayerNorm,
    LearnedPositions,
    Linear,
)

HOOKED = (Linear, Convolution, Attention, LayerNorm, LearnedPositions, EncoderBlock, DecoderBlock)

PATCHES = "patches.projection"
FIRST = "patches.convolution_1"
# A sliver of the time, and their logits decide: they keep int8 weights, and a range for each token.
LAST = ("head", "pool.")
# The values of a config that int8_full takes; each has a fixed list of tensors with int8 kernels.
FULL = {
    "stem": ("linear", "compact"),
    "position": ("learned",),
    "attention": ("soft", "relu"),
    "qk_norm": (False,),
    "mlp": ("gelu", "gelu_tanh"),
    "merge": (None,),
    "pooling": ("cls", "mean"),
    "distilled": (False,),
}


def quantizable_layers(model):
    """Yield (dotted name, layer) for every layer of `model` that has a `quantize` hook, itself as "model"."""
    yield "model", model
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, HOOKED):
            yield layer.path.removeprefix(f"{model.name}/").replace("/", "."), layer


def check_takes(profile, config):
    """Raise an InputError when a folded model has a part that `profile` cannot quantize."""
    if profile.activations != "full":
        return
    for field, known in FULL.items():
        value = getattr(config, field)
        if value not in known:
            raise InputError(
                f"{profile.name} cannot take a ViT with {field}={value!r}, whose operators have no int8 "
                "kernels: use int8 or int8_static."
            )


def kinds_of(model, profile, protect=()):
    """{"layer.role": kind} for a folded `ViT`.

    Args:
        protect: names of layers, or of what contains them, that stay float.

    Raises:
        InputError: a name in `protect` that no layer has.
    """
    kinds, idle = {}, set(protect)
    for name, layer in quantizable_layers(model):
        inside = [part for part in protect if name == part or name.startswith(f"{part}.")]
        idle.difference_update(inside)
        if inside:
            continue
        choose = _full if profile.activations == "full" else _of_matmuls
        for role, kind in choose(name, layer, model, profile).items():
            kinds[f"{name}.{role}"] = kind
    if idle:
        names = ["block_0", "block_0.mlp", "block_0.attention", "head"]
        raise InputError(
            f"there is no layer {sorted(idle)[0]!r} to protect: names look like {', '.join(names)}."
        )
    return kinds


def _of_matmuls(name, layer, model, profile):
    """Role -> kind for one layer, of the profiles that leave everything but products float."""
    static = profile.activations == "static"
    turned = model.config.position == "rotary2d" or model.config.qk_norm
    if isinstance(layer, Attention):
        if not static or name.startswith(LAST):
            return {}
        roles = {"scores": "range", "probabilities": "range"}
        return {**roles, "queries": "range", "keys": "symmetric_range"} if turned else roles
    if not isinstance(layer, Linear | Convolution):
        return {}
    convolves = isinstance(layer, Convolution) or (name == PATCHES and model.config.stem == "overlapping")
    if convolves and not static:
        return {}
    kernel = _kernel(name, layer, profile)
    if isinstance(layer, Convolution) and name != FIRST:
        # Its input is the output before it, pooled; LiteRT's pooling keeps that one's range.
        return {"kernel": kernel, "output": "range"}
    if not static or name.startswith(LAST):
        return {"input": "token", "kernel": kernel}
    first = "image" if name in (PATCHES, FIRST) else "range"
    return {
        "input": "pixels" if name == PATCHES and not convolves else first,
        "kernel": kernel,
        "output": _output(name, turned),
    }


def _output(name, turned=False):
    # Keys and values are the right-hand sides of the attention's matmuls.
    return "symmetric_range" if name.endswith(".value") or (name.endswith(".key") and not turned) else "range"


def _kernel(name, layer, profile):
    """Patches and head keep int8; blocks of inputs are for those kernels that they fill."""
    if name == PATCHES or name.startswith(LAST) or isinstance(layer, Convolution):
        return "weight"
    blocks = profile.weights == "weight4_block"
    return "weight4" if blocks and layer.kernel.shape[0] % BLOCK else profile.weights


def _full(name, layer, model, profile):
    """Role -> kind for one layer when every operator is int8."""
    if isinstance(layer, Attention):
        soft = layer.kind == "soft"
        return {"scores": "range", "probabilities": "probability" if soft else "range"}
    if isinstance(layer, Convolution):
        roles = {"kernel": "weight", "output": "range"}
        return {"input": "image", **roles} if name == FIRST else roles
    if isinstance(layer, Linear):
        roles = {"kernel": "weight", "output": _output(name)}
        if name == PATCHES:
            roles["input"] = "pixels"
        elif name.endswith(("attention.output", "mlp.contract")) or (
            name == "head" and model.config.pooling == "mean"
        ):
            roles["input"] = "range"  # of the others, a LayerNorm's output is the input
        return roles
    if isinstance(layer, LayerNorm):
        return dict.fromkeys(("mean", "centred", "square", "variance", "inverse", "output"), "range")
    if isinstance(layer, LearnedPositions):
        return {"table": "constant"}
    if name == "model":
        return {"tokens": "range", "positioned": "range", "embedded": "range"}
    return {"sum_1": "range", "sum_2": "range"}  # an encoder block
