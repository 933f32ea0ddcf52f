"""`transfer`: the weights of one ViT into another of other classes, image size, channels, patch or parts."""

from typing import Any

import keras
import numpy as np

from keras_vit.layers.positions.resize import resize_patch_kernel

KERNEL = "patches/projection/kernel"
FIRST = "patches/convolution_1/kernel"  # of the stem "compact"


def name_within(model: keras.Model, part: Any) -> str:
    """ "block_0/norm_1/scale" of a variable or layer of `model`: its path without that of the model.

    What was built outside of the model, as a modality can be, loses its own name instead.
    """
    prefix = f"{model.path}/"
    return part.path.removeprefix(prefix) if part.path.startswith(prefix) else part.path.split("/", 1)[-1]


def variables_by_name(model: keras.Model) -> dict:
    """{"block_0/norm_1/scale": variable, ...} of all weights of a model, without its own name.

    Those of a layer of the user's are numbered, "block_0/attention/0": Keras counts layers without a name up
    in a process, so that their paths differ from model to model.
    """
    theirs = {
        id(variable): f"{name}/{i}"
        for name, layer in custom_layers(model)
        for i, variable in enumerate(layer.weights)
    }
    return {theirs.get(id(v), name_within(model, v)): v for v in model.weights}


def custom_layers(model: keras.Model) -> list:
    """[("block_0/attention", layer), ...] of the user's own layers in a `ViT`, see `layers.custom`."""
    config = getattr(model, "config", None)
    if config is None or not config.custom:
        return []
    if "block" in config.custom:
        return [(block.name, block) for block in model.blocks]
    return [
        (f"{block.name}/{field}", getattr(block, field)) for block in model.blocks for field in config.custom
    ]


def transfer(old: Any, new: Any) -> keras.Model:
    """Copy into `new`, in place, each variable that `old` has in the same shape; return `new`.

    Positions of another grid and a patch kernel of another patch are resized, and the kernel that meets
    pixels is fitted to another number of channels (`for_channels`).
    """
    source = variables_by_name(old)
    moved = new.config.position == old.config.position and _grid(new) != _grid(old)
    for name, variable in variables_by_name(new).items():
        if name not in source or (moved and name.startswith("positions/")):
            continue
        value = source[name]
        if name in (KERNEL, FIRST):
            value = _fitted_kernel(keras.ops.convert_to_numpy(value), old, new)
        if tuple(variable.shape) == tuple(value.shape):
            variable.assign(value)
    if moved:
        new.positions.set_weights(old.positions.resized(_grid(new)))
    return new


def _grid(model):
    return model.config.grid(model.image_size)


def _fitted_kernel(kernel, old, new):
    """The kernel that meets pixels for another patch or other channels; empty where that cannot be."""
    if kernel.ndim == 4:  # of the stem "compact"
        return for_channels(kernel, new.config.channels)
    kernel = kernel.reshape(*old.patches.window, old.config.channels, -1)
    kernel = for_channels(kernel, new.config.channels)
    if old.patches.window != new.patches.window:
        overlaps = "overlapping" in (old.config.stem, new.config.stem)
        kernel = kernel[:0] if overlaps else resize_patch_kernel(kernel, new.config.patch_size)
    return kernel.reshape(-1, kernel.shape[-1])


def for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel [..., C, width] for pictures of another number of channels, as timm's `adapt_input_conv` does.

    To one channel it is summed: a grey picture gets the answer of the same picture in three equal channels.
    To more the channels are repeated in turn (R, G, B, R, G, ...), times C / channels, so that what comes out
    keeps its size.
    """
    old = kernel.shape[-2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return kernel[..., np.arange(channels) % old, :] * np.float32(old / channels)
