"""`transfer`: the weights of one ViT into another of other classes, image size, patch or parts."""

import keras

from keras_vit.layers.resize import resize_patch_kernel

KERNEL = "patches/projection/kernel"


def variables_by_name(model):
    """{"block_0/norm_1/scale": variable, ...} of all weights of a model, without its own name."""
    return {variable.path.split("/", 1)[1]: variable for variable in model.weights}


def transfer(old, new):
    """Copy into `new`, in place, each variable that `old` has in the same shape; return `new`.

    Positions of another grid and a patch kernel of another patch are resized.
    """
    source = variables_by_name(old)
    moved = new.config.position == old.config.position and _grid(new) != _grid(old)
    for name, variable in variables_by_name(new).items():
        if name not in source or (moved and name.startswith("positions/")):
            continue
        value = source[name]
        if name == KERNEL and variable.shape != value.shape and new.config.width == old.config.width:
            variable.assign(_resized_kernel(value, old.config.patch_size, new.config.patch_size))
        elif tuple(variable.shape) == tuple(value.shape):
            variable.assign(value)
    if moved:
        new.positions.set_weights(old.positions.resized(_grid(new)))
    return new


def _grid(model):
    return model.config.grid(model.image_size)


def _resized_kernel(kernel, old_size, new_size):
    kernel = keras.ops.convert_to_numpy(kernel)
    window = kernel.reshape(*old_size, -1, kernel.shape[-1])
    return resize_patch_kernel(window, new_size).reshape(-1, kernel.shape[-1])
