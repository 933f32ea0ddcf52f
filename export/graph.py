"""Exact rewrites: the same function with fewer operators and better ranges for quantization.

Each rewrite moves a parameter that only rescales or shifts into its neighbour:

- pixel normalisation into the patch projection: the model takes raw pixels 0..255, which int8
  holds without any error;
- the bias of the patch projection into the positions, where the converter would put it anyway;
- the positions, however they are computed, into one table that is added;
- LayerNorm's scale and shift into the projections that follow it;
- 1/sqrt(d) into the query projection;
- the bias of the values into the output projection (the softmax's rows sum to one);
- the bias of the keys is dropped (it adds the same number to all scores of a query, and the
  softmax does not see it);
- the factors of LayerScale into the projections before them.
"""

import math

import keras
import numpy as np

from keras_vit.errors import InputError
from keras_vit.models.vit import ViT

# The values of a config that the rewrites are exact for, or need not know; others are refused.
FOLDABLE = {
    "stem": ("linear", "conv"),
    "position": (
        "learned",
        "sinusoidal",
        "sincos2d",
        "sincos2d_timm",
        "factorised",
        "coordinates",
        "one_hot",
        "none",
    ),
    "pooling": ("cls", "mean"),
    "attention": ("soft",),
    "qk_norm": (False,),
    "patch_mask": (False,),
    "merge": (None,),
}
RAW_PIXELS = {"mean": [0.0, 0.0, 0.0], "std": [1 / 255] * 3}  # (pixel / 255 - 0) * 255 = pixel


def fold(model, pixels=True):
    """A new ViT that computes the same logits as `model`, from raw pixels.

    Args:
        model: a `ViT` with a head. It takes (pixel / 255 - mean) / std; the new one takes pixels
            in 0..255.
        pixels: False leaves the pixel normalisation out of it: the new one takes what `model` takes.

    Raises:
        InputError: the model is no `ViT`, has no head, or a part that cannot be folded (yet).
    """
    if not isinstance(model, ViT) or model.head is None:
        kind = "one without a head (classes=None)" if isinstance(model, ViT) else type(model).__name__
        raise InputError(f"only a keras_vit.ViT with classes can be exported, not {kind}.")
    if model.config.folded and (not pixels or model.preprocessing == RAW_PIXELS):
        return model
    for field, known in FOLDABLE.items():
        value = getattr(model.config, field)
        if value not in known:
            raise InputError(
                f"a ViT with {field}={value!r} cannot be exported yet: export takes "
                f"{field}={' or '.join(map(repr, known))}."
            )
    dtype = "float32"  # ranges and rewrites are exact only there; so is LiteRT's GELU operator
    folded = ViT(
        model.config,
        image_size=model.image_size,
        classes=model.classes,
        preprocessing=RAW_PIXELS if pixels else model.preprocessing,
        name=model.name,
        dtype=dtype,
        folded=True,
        stem="linear",
        position="learned",
        layer_scale=None,
    )
    _patches(model, folded)
    if pixels:
        fold_pixels(folded, model.preprocessing)
    for name in ("cls", "distillation", "registers"):
        if hasattr(model, name):
            getattr(folded, name).assign(getattr(model, name))
    for old, new in zip(model.blocks, folded.blocks, strict=True):
        _attention(old, new)
        for layer in ("gate", "expand") if model.config.mlp == "swiglu" else ("expand",):
            _after_norm(old.norm_2, getattr(old.mlp, layer), getattr(new.mlp, layer))
        new.mlp.contract.set_weights(old.mlp.contract.get_weights())
        _scale(old, new)
    for name in ("head", "head_distillation") if model.config.distilled else ("head",):
        _after_norm(model.norm, getattr(model, name), getattr(folded, name))
    return folded


def in_float32(model):
    """`model`, or a float32 twin of one that computes in another precision: only that one is exact."""
    if model.dtype_policy.name == "float32":
        return model
    return model.rebuilt(dtype="float32")


def _array(variable):
    # In float64 the order of the rewrites is no matter.
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _patches(model, folded):
    """The bias joins the positions: W x + b + p = W x + (p + b)."""
    old = model.patches.projection
    if model.config.position == "learned":
        folded.positions.table.assign(model.positions.table)
    else:  # what it adds to nothing, with zeros for the class tokens
        table = model.positions(keras.ops.zeros(folded.positions.table.shape, "float32"))
        folded.positions.table.assign(table)
    if old.use_bias:
        subtract_from_positions(folded, -_array(old.bias))
    folded.patches.projection.kernel.assign(old.kernel)


def fold_pixels(folded, preprocessing):
    """W ((x/255 - m) / s) + p = (W / (255 s)) x + (p - W m / s), in place; p are the positions."""
    scale, offset = pixel_rows(folded, preprocessing)
    kernel = _array(folded.patches.projection.kernel) / scale[:, None]
    folded.patches.projection.kernel.assign(kernel)
    subtract_from_positions(folded, offset @ kernel)


def pixel_rows(model, preprocessing):
    """(255 std, 255 mean) for each row of the patch kernel, whose rows run over (h, w, channel)."""
    repeats = math.prod(model.config.patch_size)
    return tuple(
        255.0 * np.tile(np.asarray(preprocessing[key], "float64"), repeats) for key in ("std", "mean")
    )


def subtract_from_positions(model, vector):
    """Subtract `vector` [width] from every position but those of [CLS], which is no patch."""
    table = _array(model.positions.table)
    table[:, model.class_tokens :] -= vector
    model.positions.table.assign(table)


def _after_norm(norm, old, new):
    """W (n g + h) + b = (diag(g) W) n + (W h + b)."""
    kernel = _array(old.kernel)
    new.kernel.assign(_array(norm.scale)[:, None] * kernel)
    if new.use_bias:
        bias = _array(old.bias) if old.use_bias else 0.0
        new.bias.assign(bias + _array(norm.shift) @ kernel)


def _scale(old_block, new_block):
    """gamma (W y + b) = (W diag(gamma)) y + gamma b, in place, after everything else."""
    if old_block.layer_scale is None:
        return
    for scale, linear in (
        (old_block.branch_1[0], new_block.attention.output_projection),
        (old_block.branch_2[0], new_block.mlp.contract),
    ):
        gamma = _array(scale.gamma)
        linear.kernel.assign(_array(linear.kernel) * gamma)
        linear.bias.assign(_array(linear.bias) * gamma)


def _attention(old_block, new_block):
    old, new, norm = old_block.attention, new_block.attention, old_block.norm_1
    for name in ("query", "key", "value"):
        _after_norm(norm, getattr(old, name), getattr(new, name))
    scale = 1.0 / math.sqrt(old.query.units // old.heads)
    new.query.kernel.assign(_array(new.query.kernel) * scale)
    new.query.bias.assign(_array(new.query.bias) * scale)
    # The values' bias, the norm's shift included, passes through the softmax unchanged.
    value_bias = _array(old.value.bias) + _array(norm.shift) @ _array(old.value.kernel)
    output = _array(old.output_projection.kernel)
    new.output_projection.kernel.assign(output)
    new.output_projection.bias.assign(_array(old.output_projection.bias) + value_bias @ output)
