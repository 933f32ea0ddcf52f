"""Exact rewrites: the same function with fewer operators and better ranges for quantization.

`fold` takes a model apart into named arrays, lets each rewrite of `rewrites.py` move a parameter that only
rescales or shifts into its neighbour, and builds the model that lacks it.

The other rewrites are in the layers themselves: patches as one matrix product (`layers.Patches`), only
the rows of [CLS] through the last block (`ViT.call`), projections that are never split or sliced.
`tests/benchmarks/rewrites.py` measures what each of them saves.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_vit._compat import flatten_layers
from keras_vit.config import Tensor
from keras_vit.errors import InputError, one_of
from keras_vit.export.tflite.rewrites import (
    LACKS,
    LACKS_MULTIMODAL,
    OUTSIDE,
    POSITIONS_IN_ATTENTION,
    REWRITES,
    as_float64,
    tabulate_positions,
)
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.transfer import variables_by_name
from keras_vit.models.vit import ViT


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
    weights = {name: as_float64(v) for name, v in variables_by_name(model).items()}
    changes: dict[str, Any] = {"patch_mask": False}
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
    weights = {name: as_float64(v) for name, v in variables_by_name(twin).items()}
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
    layers = flatten_layers(model, include_self=False) if isinstance(model, keras.Model) else ()
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
