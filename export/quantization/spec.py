"""Which tensor of a folded model gets which fake quantizer, for each profile.

A tensor is named by its layer and the role that the layer's `fake_quantize` hook calls it by, for example
"block_0.attention.query.input". The kinds are those of `export.quantizers`.
"""

import re

from keras_vit.errors import InputError
from keras_vit.export.quantization.fake_quant import BLOCK
from keras_vit.layers import (
    Attention,
    Convolution,
    DecoderBlock,
    EncoderBlock,
    LayerNorm,
    LearnedPositions,
    Linear,
)
from keras_vit.modalities import Modality, Text
from keras_vit.modalities.grid import GridModality
from keras_vit.modalities.pixels import Pixels
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.transfer import name_within

HOOKED = (Linear, Convolution, Attention, LayerNorm, LearnedPositions, EncoderBlock, DecoderBlock, Modality)

PATCHES = "patches.projection"
FIRST = "patches.convolution_1"
# A sliver of the time, and their logits decide: they keep int8 weights, and a range for each token.
LAST = ("head", "pool.")
# The queries of a visual sentence are learned: what its first decoder block makes of them alone is a constant
# in the file, and no operator.
CONSTANT = re.compile(r"\.decoder_0\.(norm_[12]$|attention($|\.)|cross_attention\.query$)")
FROM_CONSTANT = re.compile(r"\.decoder_0\.cross_attention(\.output)?$")
PROBE = "pool.attention.query"  # its input is learned, too
UNMASKED = re.compile(r"\.decoder_\d+\.attention$")  # of the attentions of a text
# Whose outputs enter the products of attention.
ATTENDED = ("attention.query", "attention.key", "attention.value")
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
    """Yield (dotted name, layer) for every layer of `model` with a `fake_quantize` hook, itself as "model".

    Of a `MultimodalViT` those that take part in an answer: not what only training has.
    """
    yield "model", model
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, HOOKED):
            name = name_within(model, layer).replace("/", ".")
            if not name.startswith("prediction."):
                yield name, layer


def check_takes(profile, model):
    """Raise an InputError when a folded model has a part that `profile` cannot quantize."""
    for field, registered in (model.config.custom if hasattr(model, "config") else {}).items():
        raise InputError(
            f"{profile.name} cannot take a ViT with {field}={registered}: quantization does not know what a "
            "layer of your own computes. Export it as float32 or float16."
        )
    if profile.activations != "full" or isinstance(model, MultimodalViT):
        return
    config = model.config
    for field, known in FULL.items():
        value = getattr(config, field)
        if value not in known:
            raise InputError(
                f"{profile.name} cannot take a ViT with {field}={value!r}, whose operators have no int8 "
                "kernels: use int8 or int8_static."
            )


def kinds_of(model, profile, protect=()):
    """{"layer.role": kind} for a folded `ViT` or `MultimodalViT`.

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
        choose = _of_matmuls
        if profile.activations == "full":
            choose = _full_of_several if isinstance(model, MultimodalViT) else _full
        for role, kind in choose(name, layer, model, profile).items():
            kinds[f"{name}.{role}"] = kind
    if idle:
        names = ["block_0", "block_0.mlp", "block_0.attention", "head"]
        raise InputError(
            f"there is no layer {sorted(idle)[0]!r} to protect: names look like {', '.join(names)}."
        )
    return kinds


def _of_matmuls(name, layer, model, profile):
    """Role -> kind for one layer, of the profiles that leave everything but products (and tables) float."""
    static, mixed = profile.activations == "static", profile.activations == "mixed"
    several = isinstance(model, MultimodalViT)
    turned = not several and (model.config.position == "rotary2d" or model.config.qk_norm)
    if CONSTANT.search(name):
        return {}
    if isinstance(layer, Modality):
        return {"table": "constant"} if hasattr(layer, "table") else {}
    if isinstance(layer, Attention):
        if not (static or mixed) or name.startswith(LAST):
            return {}
        roles = {"scores": "range", "probabilities": "range"}
        if mixed:
            roles["context"] = "range"  # in "static" that is the range of the next projection's input
        if FROM_CONSTANT.search(name):
            del roles["scores"]  # a product with what is a constant in the file stays float
        return {**roles, "queries": "range", "keys": "symmetric_range"} if turned else roles
    if not isinstance(layer, Linear | Convolution):
        return {}
    patches, first = _of_input(name, model)
    convolves = isinstance(layer, Convolution) or (patches and _stem(name, model) == "overlapping")
    if convolves and (not static or (several and patches)):
        return {}
    kernel = _kernel(name, layer, profile, patches)
    if isinstance(layer, Convolution) and not first:
        # Its input is the output before it, pooled; LiteRT's pooling keeps that one's range.
        return {"kernel": kernel, "output": "range"}
    # Where a constant is added to an output, the converter adds the bias to that: it never is a tensor.
    into_constant = several and (name.endswith(".projection") or FROM_CONSTANT.search(name))
    if not static or name.startswith(LAST) or into_constant:
        roles = {"input": "token", "kernel": kernel}
        enters = ("attention.value",) if turned else ATTENDED
        if mixed and name.endswith(enters) and not name.startswith(LAST):
            roles["output"] = _output(name, turned)
        return roles
    kind = "range"
    if patches or first:
        kind = "image" if several or convolves else "pixels"
    return {"input": kind, "kernel": kernel, "output": _output(name, turned)}


def _of_input(name, model):
    """(whether a layer projects the patches of an input, whether it is the first convolution of one)."""
    if isinstance(model, MultimodalViT):
        return name.endswith(".pieces.projection"), name.endswith(".pieces.convolution_1")
    return name == PATCHES, name == FIRST


def _stem(name, model):
    if isinstance(model, MultimodalViT):
        return getattr(model.modalities[name.split(".")[0]], "stem", "linear")
    return model.config.stem


def _output(name, turned=False):
    # Keys and values are the right-hand sides of the attention's matmuls.
    return "symmetric_range" if name.endswith(".value") or (name.endswith(".key") and not turned) else "range"


def _kernel(name, layer, profile, patches):
    """Patches and head keep int8; blocks of inputs are for those kernels that they fill."""
    if patches or name.startswith(LAST) or isinstance(layer, Convolution):
        return "weight"
    blocks = profile.weights == "weight4_block"
    return "weight4" if blocks and layer.kernel.shape[0] % BLOCK else profile.weights


def _full(name, layer, model, profile):
    """Role -> kind for one layer when every operator is int8."""
    if isinstance(layer, Attention):
        soft = layer.attention_type == "soft"
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
        return dict.fromkeys(_roles_of_norm(layer), "range")
    if isinstance(layer, LearnedPositions):
        return {"table": "constant"}
    if name == "model":
        # Only what the one before is not already: two fake quantizers of one tensor would round it twice.
        added = {"tokens": model.class_tokens, "positioned": True, "embedded": model.config.registers}
        return {role: "range" for role, there in added.items() if there}
    return {"sum_1": "range", "sum_2": "range"}  # an encoder block


def _roles_of_norm(layer):
    roles = ["mean", "centred"] if layer.centre else []
    roles += ["square", "variance", "inverse", "output"]
    return roles + (["scaled", "shifted"] if layer.affine else [])


def _full_of_several(name, layer, model, profile):
    """Role -> kind for one layer of a `MultimodalViT` when every operator is int8 that can be.

    Float stay: masks, spectrograms, tracks until they are projected, patches of other stems than "linear" and
    "compact", and modalities of your own up to the trunk.
    """
    modality = model.modalities.get(name.split(".")[0])
    if CONSTANT.search(name):
        return {}
    if isinstance(layer, Attention):
        masked = modality is None or (isinstance(modality, Text) and not UNMASKED.search(name))
        scores = {"biased": "biased_range"} if masked else {"scores": "range"}
        return {**scores, "probabilities": "probability"}
    if isinstance(layer, Linear | Convolution):
        patches, first = _of_input(name, model)
        if patches and _stem(name, model) != "linear":
            return _of_matmuls(name, layer, model, profile)
        input_kind = "image" if isinstance(modality, Pixels) else "range"
        roles = {"kernel": "weight"}
        if isinstance(layer, Convolution):
            return {**roles, "output": "range", **({"input": input_kind} if first else {})}
        # Where a constant is added to an output, the converter adds the bias to that.
        into_constant = FROM_CONSTANT.search(name) or (
            name.endswith(".projection") and getattr(modality, "position", "learned") != "none"
        )
        roles["product" if into_constant else "output"] = _output(name)
        if name.endswith(".projection"):
            roles["input"] = input_kind
        elif name.endswith(("attention.output", "mlp.contract")):
            roles["input"] = "range"  # of the others, a LayerNorm's output is the input
        return roles
    if isinstance(layer, LayerNorm):
        return {**dict.fromkeys(_roles_of_norm(layer), "range"), "inverse": "inverse_range"}
    if isinstance(layer, LearnedPositions):
        # The file's table of projected tokens has their bias in it, see above, and is rounded with that.
        projects = hasattr(getattr(modality, "pieces", modality), "projection")
        return {} if projects else {"table": "constant"}
    if isinstance(layer, Modality):
        if hasattr(layer, "table"):
            return {"table": "constant", "positioned": "range"}
        known = isinstance(layer, GridModality) or hasattr(layer, "projection")
        added = getattr(layer, "position", "learned") != "none"  # else the projection's output is it
        return {"positioned": "range"} if known and added else {}
    if name == "model":
        return {"joined": "range"}
    sums = {"sum_1": "range", "sum_2": "range"}  # of an encoder block
    if isinstance(layer, DecoderBlock):
        sums["sum_3"] = "range"
        if name.endswith(".decoder_0"):
            del sums["sum_1"]
    return sums
