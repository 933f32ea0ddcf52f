"""Exact rewrites: the same function with fewer operators and better ranges for quantization.

`fold` takes a ViT apart into named arrays, lets each rewrite of `REWRITES` move a parameter that only
rescales or shifts into its neighbour, and builds the ViT that lacks it. A rewrite is one small function
(weights, config, ...) on a dictionary of float64 arrays, named as in `variables_by_name`; it answers
whether there was anything to do. In float64 the order is no matter, nor does rounding add up.

The other rewrites are in the layers themselves: patches as one matrix product (`layers.Patches`), only
the rows of [CLS] through the last block (`ViT.call`), projections that are never split or sliced.
`tests/benchmarks/rewrites.py` measures what each of them saves.
"""

import math

import keras
import numpy as np

from keras_vit.config import FOLDS
from keras_vit.errors import InputError, one_of
from keras_vit.models.transfer import variables_by_name
from keras_vit.models.vit import ViT

RAW_PIXELS = {"mean": [0.0, 0.0, 0.0], "std": [1 / 255] * 3}  # (pixel / 255 - 0) * 255 = pixel
NOT_ADDED = ("rotary2d", "relative")  # positions that act inside the attention


def fold(model, pixels=True, rewrites=None):
    """A new ViT that computes the same logits as `model`, from raw pixels where that can be exact.

    Args:
        model: a `ViT` with a head. It takes (pixel / 255 - mean) / std; the new one takes what its own
            `preprocessing` says: pixels in 0..255 (`RAW_PIXELS`), or the same as `model` for stems whose
            convolutions pad the image with zeros, which only are zeros in normalised images. A model
            with patch_mask becomes one for pictures of its full `image_size`.
        pixels: False leaves the pixel normalisation out of it.
        rewrites: names from `REWRITES`; default all.

    Raises:
        InputError: the model is no `ViT`, or has no head.
    """
    if not isinstance(model, ViT) or model.head is None:
        kind = "a ViT without a head (classes=None)" if isinstance(model, ViT) else _described(model)
        raise InputError(
            f"only a keras_vit.ViT with classes can be exported, not {kind}: build or load one with "
            "keras_vit.ViT(..., classes=N), or import a checkpoint with `keras-vit import`."
        )
    config = model.config
    names = [one_of("rewrite", name, REWRITES) for name in (REWRITES if rewrites is None else rewrites)]
    names = [name for name in names if name not in config.folded]
    if not pixels or not takes_raw_pixels(model) or model.preprocessing == RAW_PIXELS:
        names = [name for name in names if name != "pixels"]
    if config.folded and "pixels" not in names:
        return model
    weights = {name: _array(v) for name, v in variables_by_name(model).items()}
    changes = {"patch_mask": False}
    if config.stem == "conv":
        changes["stem"] = "linear"
    if config.position not in ("learned", *NOT_ADDED):
        changes["position"] = "learned"
        tabulate_positions(weights, model)
    done = {name: REWRITES[name](weights, model) for name in names}
    changes["folded"] = tuple(name for name in FOLDED if done.get(name) or name in config.folded)
    if done.get("layer_scale"):
        changes["layer_scale"] = None
    folded = ViT(
        config,
        image_size=model.image_size,
        classes=model.classes,
        preprocessing=RAW_PIXELS if done.get("pixels") else model.preprocessing,
        name=model.name,
        dtype="float32",  # ranges and rewrites are exact only there; so is LiteRT's GELU operator
        **changes,
    )
    for name, variable in variables_by_name(folded).items():
        variable.assign(weights.pop(name))
    assert not weights, f"lost while folding: {sorted(weights)}"
    return folded


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


def takes_raw_pixels(model):
    """Whether the pixel normalisation can be folded into the stem: not into one that pads with zeros."""
    return model.config.stem in ("linear", "conv")


def from_pixels(images, model):
    """Images [B, H, W, 3] in 0..255 as the folded `model` takes them: unchanged, unless its stem pads."""
    if model.preprocessing == RAW_PIXELS:
        return images
    mean, std = (np.asarray(model.preprocessing[key], "float64") for key in ("mean", "std"))
    return images * (1 / (255 * std)).astype("float32") - (mean / std).astype("float32")


def in_float32(model):
    """`model`, or a float32 twin of one that computes in another precision: only that one is exact."""
    if model.dtype_policy.name == "float32":
        return model
    return model.rebuilt(dtype="float32")


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def tabulate_positions(weights, model):
    """Positions that are added, however they are computed, become one table; zeros for the class tokens."""
    rows, columns = model.config.grid(model.image_size)
    shape = (1, model.class_tokens + rows * columns, model.config.width)
    for name in [name for name in weights if name.startswith("positions/")]:
        del weights[name]
    weights["positions/table"] = _array(model.positions(keras.ops.zeros(shape, "float32")))


def fold_layer_scale(weights, model):
    """gamma (W y + b) = (W diag(gamma)) y + gamma b."""
    names = [name for name in weights if name.endswith("/gamma")]
    for name in names:
        block, scale, _ = name.split("/")
        linear = {"scale_1": "attention/output", "scale_2": "mlp/contract"}[scale]
        gamma = weights.pop(name)
        weights[f"{block}/{linear}/kernel"] *= gamma
        weights[f"{block}/{linear}/bias"] *= gamma
    return bool(names)


def fold_norms(weights, model):
    """W (n g + h) + b = (diag(g) W) n + (W h + b): LayerNorm's scale and shift into what follows it."""
    names = [name for name in weights if name.endswith("/scale") and not name.endswith("_norm/scale")]
    for name in names:
        norm = name.removesuffix("/scale")
        scale, shift = weights.pop(f"{norm}/scale"), weights.pop(f"{norm}/shift")
        if norm == "merger/norm":
            # q (n g + h) = (q g) n + q h; the last term is the same for all tokens: no softmax sees it.
            weights["merger/queries"] *= scale
        for linear in _after(norm, weights):
            kernel = weights[f"{linear}/kernel"]
            bias = weights.get(f"{linear}/bias", 0.0)
            weights[f"{linear}/bias"] = bias + shift @ kernel
            weights[f"{linear}/kernel"] = scale[:, None] * kernel
    return bool(names)


def _after(norm, weights):
    """Names of the `Linear` layers that take the output of the LayerNorm called `norm`."""
    block = norm.rpartition("/")[0]
    follow = {
        "norm_1": [f"{block}/attention/{role}" for role in ("query", "key", "value")],
        "norm_2": [f"{block}/mlp/{layer}" for layer in ("gate", "expand")],
        "norm": [f"{block}/mlp/{layer}" for layer in ("gate", "expand")],
    }[norm.rpartition("/")[2]]
    if norm == "norm":  # the last one of the model
        pooled = "pool/attention/key/kernel" in weights
        follow = ["pool/attention/key", "pool/attention/value"] if pooled else ["head", "head_distillation"]
    return [name for name in follow if f"{name}/kernel" in weights]


def fold_attention_scale(weights, model):
    """1/sqrt(d) into the queries (their norm, if they have one), and relu attention's 1/N into the values."""
    for attention, tokens in _attentions(weights, model):
        width = weights[f"{attention}/query/kernel"].shape[1] // model.config.heads
        norm = f"{attention}/query_norm"
        parts = (
            (f"{norm}/scale", f"{norm}/shift")
            if f"{norm}/scale" in weights
            else (f"{attention}/query/kernel", f"{attention}/query/bias")
        )
        for name in parts:
            weights[name] = weights[name] / math.sqrt(width)
        if model.config.attention == "relu" and tokens:
            for part in ("kernel", "bias"):
                weights[f"{attention}/value/{part}"] = weights[f"{attention}/value/{part}"] / tokens
    return True


def fold_value_bias(weights, model):
    """The weights of a softmax sum to one: the values' bias passes through, into the output projection."""
    if model.config.attention == "relu":
        return False
    for attention, _ in _attentions(weights, model):
        bias = weights.pop(f"{attention}/value/bias")
        weights[f"{attention}/output/bias"] += bias @ weights[f"{attention}/output/kernel"]
    return True


def drop_key_bias(weights, model):
    """It adds the same number to all scores of a query: no softmax sees it, unless positions turn keys."""
    config = model.config
    if config.attention == "relu" or config.qk_norm or config.position == "rotary2d":
        return False
    for attention, _ in _attentions(weights, model):
        del weights[f"{attention}/key/bias"]
    return True


def _attentions(weights, model):
    """(name, number of tokens it attends to) of every `Attention` of blocks; 0 tokens for the pooling."""
    config = model.config
    rows, columns = config.grid(model.image_size)
    tokens = model.prefix + rows * columns
    for i in range(config.depth):
        if config.merge and i == config.merge[0]:
            tokens = model.prefix + config.merge[1]
        yield f"block_{i}/attention", tokens
    if "pool/attention/query/kernel" in weights:
        yield "pool/attention", 0  # always soft


def fold_patch_bias(weights, model):
    """W x + b + p = W x + (p + b): the patches' bias into the positions, where the converter would put it."""
    if "patches/projection/bias" not in weights or model.config.position in NOT_ADDED:
        return False
    weights["positions/table"][:, model.class_tokens :] += weights.pop("patches/projection/bias")
    return True


def fold_pixels(weights, model):
    """W ((x/255 - m) / s) + p = (W / (255 s)) x + (p - W m / s): int8 holds raw pixels without any error."""
    scale, offset = pixel_rows(model)
    weights["patches/projection/kernel"] = weights["patches/projection/kernel"] / scale[:, None]
    shift_patches(weights, model, -offset @ weights["patches/projection/kernel"])
    return True


def pixel_rows(model):
    """(255 std, 255 mean) for each row of the patch kernel, whose rows run over (h, w, channel)."""
    repeats = math.prod(model.config.patch_size)
    return tuple(
        255.0 * np.tile(np.asarray(model.preprocessing[key], "float64"), repeats) for key in ("std", "mean")
    )


def shift_patches(weights, model, vector):
    """Add `vector` [width] to every patch token: to the bias if there is one, else to the positions."""
    if "patches/projection/bias" in weights:
        weights["patches/projection/bias"] = weights["patches/projection/bias"] + vector
    else:
        weights["positions/table"][:, model.class_tokens :] += vector


REWRITES = {
    "layer_scale": fold_layer_scale,
    "norms": fold_norms,
    "attention_scale": fold_attention_scale,
    "value_bias": fold_value_bias,
    "key_bias": drop_key_bias,
    "patch_bias": fold_patch_bias,
    "pixels": fold_pixels,
}
FOLDED = tuple(name for name in REWRITES if name in FOLDS)  # what a config notes
