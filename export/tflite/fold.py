"""Exact rewrites: the same function with fewer operators and better ranges for quantization.

`fold` takes a model apart into named arrays, lets each rewrite of `REWRITES` move a parameter that only
rescales or shifts into its neighbour, and builds the model that lacks it. A rewrite is one small function
(weights, config, ...) on a dictionary of float64 arrays, named as in `variables_by_name`; it answers
whether there was anything to do. In float64 the order is no matter, nor does rounding add up.

The other rewrites are in the layers themselves: patches as one matrix product (`layers.Patches`), only
the rows of [CLS] through the last block (`ViT.call`), projections that are never split or sliced.
`tests/benchmarks/rewrites.py` measures what each of them saves.
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_vit.config import Tensor
from keras_vit.errors import InputError, one_of
from keras_vit.layers import Attention
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.transfer import name_within, variables_by_name
from keras_vit.models.vit import ViT

Weights = dict[str, np.ndarray]  # as `variables_by_name`, in float64
RESIDUAL_OUTPUTS = ("attention/output", "mlp/contract")  # whose outputs a block adds to its tokens
POSITIONS_IN_ATTENTION = ("rotary2d", "relative")  # positions that act inside the attention


def fold(model: Any, pixels: bool = True, rewrites: Iterable[str] | None = None) -> Any:
    """A new model that computes the same logits as `model`, from raw pixels where that can be exact.

    Args:
        model: a `MultimodalViT` with a head, which goes on taking what it takes. Or a `ViT` with one, which
            takes (pixel / 255 - mean) / std, or pixels with `include_preprocessing`. The new one takes what
            its own `preprocessing` says: pixels in 0..255 (`raw_pixels`); or normalised ones for stems whose
            convolutions pad the image with zeros, which only are zeros in normalised images. A model with
            patch_mask becomes one for pictures of its full `image_size`.
        pixels: False leaves the pixel normalisation out of it.
        rewrites: names from `REWRITES`; default all.

    Raises:
        InputError: the model is neither, or has no head.
    """
    if not isinstance(model, ViT | MultimodalViT) or model.head is None:
        known = isinstance(model, ViT | MultimodalViT)
        described = (
            f"a {type(model).__name__} without a head (num_classes=None)" if known else _described(model)
        )
        raise InputError(
            "only a keras_vit.ViT or MultimodalViT with classes can be exported, not "
            f"{described}: {_way_out(model)}"
        )
    names = [one_of("rewrite", name, REWRITES) for name in (REWRITES if rewrites is None else rewrites)]
    if isinstance(model, MultimodalViT):
        return _fold_multimodal(model, names)
    config = model.config
    before = {name for name, fields in LACKS.items() if _has(config, fields)}
    names = [name for name in names if name not in before]
    folded_before = before - {"layer_scale"}  # which most models never had
    if config.custom:
        names = [name for name in names if name in OUTSIDE]
    if not pixels or not takes_raw_pixels(model) or is_raw(model):
        names = [name for name in names if name != "pixels"]
    if folded_before and "pixels" not in names:
        return model
    weights = {name: _array(v) for name, v in variables_by_name(model).items()}
    changes = {"patch_mask": False}
    if config.stem == "conv":
        changes["stem"] = "linear"
    if config.position not in ("learned", *POSITIONS_IN_ATTENTION):
        changes["position"] = "learned"
        tabulate_positions(weights, model)
    done = {name: REWRITES[name](weights, model) for name in names}
    for name in names:
        changes |= LACKS.get(name, {}) if done[name] else {}
    folded = ViT(
        config,
        image_size=model.image_size,
        num_classes=model.num_classes,
        preprocessing=raw_pixels(config.channels) if done.get("pixels") else model.preprocessing,
        name=model.name,
        activation=model.activation,
        dtype="float32",  # ranges and rewrites are exact only there; so is LiteRT's GELU operator
        **changes,
    )
    return _filled(folded, weights)


def _fold_multimodal(model, names):
    """`fold` for a `MultimodalViT`: what concerns patches and pixels stays as it is in its modalities."""
    names = [name for name in names if name in LACKS_MULTIMODAL]
    has = {**model.attention_options, "affine": model.affine}
    names = [name for name in names if not LACKS_MULTIMODAL[name].items() <= has.items()]
    if not names:
        return model
    # A copy, whose variables are all named from the model down, wherever its modalities were built.
    twin = MultimodalViT.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    weights = {name: _array(v) for name, v in variables_by_name(twin).items()}
    for name in names:
        if REWRITES[name](weights, twin):
            has |= LACKS_MULTIMODAL[name]
    affine = has.pop("affine")
    return _filled(model.recast(attention=has, affine=affine), weights)


def _has(config, fields):
    return all(getattr(config, field) == value for field, value in fields.items())


def _filled(model, weights):
    """`model` with those named arrays as its weights, of which none may be left over."""
    for name, variable in variables_by_name(model).items():
        variable.assign(weights.pop(name))
    assert not weights, f"lost while folding: {sorted(weights)}"
    return model


def _way_out(model):
    layers = model.layers if isinstance(model, keras.Model) else ()
    inside = [layer for layer in layers if isinstance(layer, ViT | MultimodalViT) and layer.head is not None]
    if len(inside) == 1:
        return (
            f"export the {type(inside[0]).__name__} inside it, model.get_layer({inside[0].name!r}), and say "
            "what a layer after it made of its logits by its `activation`: 'softmax', 'sigmoid' or None."
        )
    return (
        "build or load one with keras_vit.ViT(..., num_classes=N), or import a checkpoint: "
        "`keras-vit import`."
    )


def _described(model):
    """What a model that is none of ours is, and which layers of it this package does not know."""
    layers = model._flatten_layers(include_self=False) if isinstance(model, keras.Model) else ()
    strangers = {
        type(layer).__name__ for layer in layers if not type(layer).__module__.startswith("keras_vit")
    }
    strangers = sorted(strangers - {"InputLayer", "Dropout"})
    unknown = (
        f" with layers that this package does not know ({', '.join(strangers[:5])})" if strangers else ""
    )
    return f"{type(model).__name__}{unknown}"


def raw_pixels(channels: int) -> dict:
    """The preprocessing that leaves pixels as they are: (pixel / 255 - 0) * 255 = pixel."""
    return {"mean": [0.0] * channels, "std": [1 / 255] * channels}


def is_raw(model: Any) -> bool:
    """Whether a `ViT` takes pixels 0..255 as they are."""
    return model.preprocessing == raw_pixels(model.config.channels)


def takes_raw_pixels(model: Any) -> bool:
    """Whether the pixel normalisation can be folded into the stem: not into one that pads with zeros."""
    return isinstance(model, ViT) and model.config.stem in ("linear", "conv")


def from_raw(inputs: dict, model: Any) -> Any:
    """{name: raw input, see `model.signature()`} as the folded `model` takes them."""
    return from_pixels(inputs["image"], model) if isinstance(model, ViT) else model.prepare(inputs)


def from_pixels(images: Tensor, model: Any) -> Tensor:
    """Images [B, H, W, C] in 0..255 as the folded `model` takes them: unchanged, unless its stem pads."""
    if is_raw(model):
        return images
    mean, std = (np.asarray(model.preprocessing[key], "float64") for key in ("mean", "std"))
    return images * (1 / (255 * std)).astype("float32") - (mean / std).astype("float32")


def in_float32(model: Any) -> Any:
    """`model`, or a float32 twin of one that computes in another precision: only that one is exact."""
    if model.dtype_policy.name == "float32":
        return model
    if isinstance(model, ViT):
        return model.rebuilt(dtype="float32")
    twin = model.recast()
    twin.set_weights(model.get_weights())
    return twin


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def tabulate_positions(weights: Weights, model: Any) -> None:
    """Positions that are added, however they are computed, become one table; zeros for the class tokens."""
    rows, columns = model.config.grid(model.image_size)
    shape = (1, model.class_tokens + rows * columns, model.config.width)
    for name in [name for name in weights if name.startswith("positions/")]:
        del weights[name]
    weights["positions/table"] = _array(model.positions(keras.ops.zeros(shape, "float32")))


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
    for layer in model._flatten_layers(include_self=False):
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
    return tuple(
        255.0 * np.tile(np.asarray(model.preprocessing[key], "float64"), repeats) for key in ("std", "mean")
    )


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
