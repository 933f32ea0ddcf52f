"""The rewrites of `fold`: each moves a parameter that only rescales or shifts into its neighbour.

A rewrite is a function (weights, model) -> bool: whether there was anything to do. The weights are a
dictionary of float64 arrays, named as in `variables_by_name`, which it changes in place. In float64 the order
of rewrites does not matter, nor does rounding add up.
"""

import math
from typing import Any

import keras
import numpy as np

from keras_vit._compat import flatten_layers
from keras_vit.layers import Attention
from keras_vit.models.transfer import name_within
from keras_vit.models.vit import ViT

Weights = dict[str, np.ndarray]  # as `variables_by_name`, in float64
RESIDUAL_OUTPUTS = ("attention/output", "mlp/contract")  # whose outputs a block adds to its tokens
POSITIONS_IN_ATTENTION = ("rotary2d", "relative")  # positions that act inside the attention


def as_float64(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")


def tabulate_positions(weights: Weights, model: Any) -> None:
    """Positions that are added, however they are computed, become one table; zeros for the class tokens."""
    rows, columns = model.config.grid(model.image_size)
    shape = (1, model.class_tokens + rows * columns, model.config.width)
    for name in [name for name in weights if name.startswith("positions/")]:
        del weights[name]
    weights["positions/table"] = as_float64(model.positions(keras.ops.zeros(shape, "float32")))


def fold_layer_scale(weights: Weights, model: Any) -> bool:
    """gamma (W y + b) = (W diag(gamma)) y + gamma b."""
    names = [name for name in weights if name.endswith("/gamma")]
    for name in names:
        block, scale, _ = name.split("/")
        linear = {"scale_1": "attention/output", "scale_2": "mlp/contract"}[scale]
        gamma = weights.pop(name)
        weights[f"{block}/{linear}/kernel"] *= gamma
        weights[f"{block}/{linear}/bias"] *= gamma
    return bool(names)


def fold_means(weights: Weights, model: Any) -> bool:
    """LayerNorm(x) = LayerNorm(x - mean(x)): x has none to subtract if nothing that is added to it has one.

    Ashkboos et al. 2024 (SliceGPT, arXiv:2401.15024, section 3.2). Not for stems that end in ReLU and
    pooling: what these give has a mean.
    """
    if "patches/projection/kernel" not in weights or any(name.endswith("/gamma") for name in weights):
        return False
    added = [
        "patches/projection",
        *(f"block_{i}/{part}" for i in range(model.config.depth) for part in RESIDUAL_OUTPUTS),
    ]
    names = [f"{layer}/{part}" for layer in added for part in ("kernel", "bias")]
    names += ["cls", "distillation", "registers"]
    if model.config.position not in POSITIONS_IN_ATTENTION:
        names.append("positions/table")
    for name in names:
        if name in weights:
            weights[name] = weights[name] - weights[name].mean(axis=-1, keepdims=True)
    return True


def fold_norms(weights: Weights, model: Any) -> bool:
    """W (n g + h) + b = (diag(g) W) n + (W h + b): LayerNorm's scale and shift into what follows it."""
    norms = [name.removesuffix("/scale") for name in weights if name.endswith("/scale")]
    norms = [norm for norm in norms if _after(norm, weights) or norm == "merger/norm"]
    for norm in norms:
        scale, shift = weights.pop(f"{norm}/scale"), weights.pop(f"{norm}/shift")
        if norm == "merger/norm":
            # q (n g + h) = (q g) n + q h; the last term is the same for all tokens: no softmax sees it.
            weights["merger/queries"] *= scale
        for linear in _after(norm, weights):
            kernel = weights[f"{linear}/kernel"]
            bias = weights.get(f"{linear}/bias", 0.0)
            weights[f"{linear}/bias"] = bias + shift @ kernel
            weights[f"{linear}/kernel"] = scale[:, None] * kernel
    return bool(norms)


def _after(norm, weights):
    """Names of the `Linear` layers that take the output of the LayerNorm called `norm`, if only they do."""
    block, _, name = norm.rpartition("/")
    mlp = [f"{block}/mlp/{layer}" for layer in ("gate", "expand")]
    decodes = f"{block}/cross_attention/query/kernel" in weights
    follow = {
        "norm_1": [f"{block}/attention/{role}" for role in ("query", "key", "value")],
        "norm_2": [f"{block}/cross_attention/query"] if decodes else mlp,
        "norm_3": mlp,
        "norm": mlp,  # in attention pooling; that of a modality's encoder has no MLP beside it
    }.get(name, [])
    if norm == "norm":  # the last one of the model
        pooled = "pool/attention/key/kernel" in weights
        follow = ["pool/attention/key", "pool/attention/value"] if pooled else ["head", "head_distillation"]
    return [name for name in follow if f"{name}/kernel" in weights]


def fold_attention_scale(weights: Weights, model: Any) -> bool:
    """1/sqrt(d) into the queries (their norm, if they have one), and relu attention's 1/N into the values."""
    for attention, layer in _attentions(model):
        norm = f"{attention}/query_norm"
        parts = (
            (f"{norm}/scale", f"{norm}/shift")
            if f"{norm}/scale" in weights
            else (f"{attention}/query/kernel", f"{attention}/query/bias")
        )
        for name in parts:
            weights[name] = weights[name] * layer.scale
        if layer.attention_type == "relu" and layer.average:
            for value in (f"{attention}/value/kernel", f"{attention}/value/bias"):
                if value in weights:
                    weights[value] = weights[value] / _tokens(attention, model)
    return True


def fold_value_bias(weights: Weights, model: Any) -> bool:
    """The weights of a softmax sum to one: the values' bias passes through, into the output projection."""
    attentions = list(_attentions(model))
    if any(layer.attention_type == "relu" for _, layer in attentions):
        return False
    for attention, _ in attentions:
        bias = weights.pop(f"{attention}/value/bias", 0.0 * weights[f"{attention}/output/bias"])
        weights[f"{attention}/output/bias"] += bias @ weights[f"{attention}/output/kernel"]
    return True


def drop_key_bias(weights: Weights, model: Any) -> bool:
    """It adds the same number to all scores of a query: no softmax sees it, unless positions turn keys."""
    attentions = list(_attentions(model))
    uses_rotary = isinstance(model, ViT) and model.config.position == "rotary2d"
    if uses_rotary or any(layer.attention_type == "relu" or layer.qk_norm for _, layer in attentions):
        return False
    for attention, _ in attentions:
        weights.pop(f"{attention}/key/bias", None)
    return True


def _attentions(model):
    """(name as in `variables_by_name`, layer) of every `Attention` of a model."""
    for layer in flatten_layers(model, include_self=False):
        if isinstance(layer, Attention):
            yield name_within(model, layer), layer


def _tokens(attention, model):
    """How many tokens the attention of a block of a `ViT` attends to."""
    config, block = model.config, int(attention.split("/")[0].removeprefix("block_"))
    rows, columns = config.grid(model.image_size)
    merged = config.merge and block >= config.merge[0]
    return model.prefix + (config.merge[1] if merged else rows * columns)


def fold_patch_bias(weights: Weights, model: Any) -> bool:
    """W x + b + p = W x + (p + b): the patches' bias into the positions, where the converter would put it."""
    if "patches/projection/bias" not in weights or model.config.position in POSITIONS_IN_ATTENTION:
        return False
    weights["positions/table"][:, model.class_tokens :] += weights.pop("patches/projection/bias")
    return True


def fold_pixels(weights: Weights, model: Any) -> bool:
    """W ((x/255 - m) / s) + p = (W / (255 s)) x + (p - W m / s): int8 holds raw pixels without any error."""
    scale, offset = pixel_rows(model)
    weights["patches/projection/kernel"] = weights["patches/projection/kernel"] / scale[:, None]
    shift_patches(weights, model, -offset @ weights["patches/projection/kernel"])
    return True


def pixel_rows(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """(255 std, 255 mean) for each row of the patch kernel, whose rows run over (h, w, channel)."""
    repeats = math.prod(model.config.patch_size)
    std, mean = (np.asarray(model.preprocessing[key], "float64") for key in ("std", "mean"))
    return 255.0 * np.tile(std, repeats), 255.0 * np.tile(mean, repeats)


def shift_patches(weights: Weights, model: Any, vector: np.ndarray) -> None:
    """Add `vector` [width] to every patch token: to the bias if there is one, else to the positions."""
    if "patches/projection/bias" in weights:
        weights["patches/projection/bias"] = weights["patches/projection/bias"] + vector
    else:
        weights["positions/table"][:, model.class_tokens :] += vector


REWRITES = {
    "layer_scale": fold_layer_scale,
    "means": fold_means,
    "norms": fold_norms,
    "attention_scale": fold_attention_scale,
    "value_bias": fold_value_bias,
    "key_bias": drop_key_bias,
    "patch_bias": fold_patch_bias,
    "pixels": fold_pixels,
}
OUTSIDE = ("patch_bias", "pixels")  # those that touch no block: the user's own are not known here
# The fields of a `ViTConfig` that say what a model lacks after a rewrite.
LACKS = {
    "layer_scale": {"layer_scale": None},
    "means": {"norm_centre": False},
    "norms": {"norm_affine": False},
    "attention_scale": {"attention_scale": 1.0, "attention_average": False},
    "value_bias": {"value_bias": False},
    "key_bias": {"key_bias": False},
    "patch_bias": {"patch_bias": False},
}
# Of those that a `MultimodalViT` has, too: its arguments, and those of its attentions.
LACKS_MULTIMODAL = {
    "norms": {"affine": False},
    "attention_scale": {"scale": 1.0, "average": False},
    "value_bias": {"value_bias": False},
    "key_bias": {"key_bias": False},
}
