"""Layers of your own in a `ViT`: another attention, MLP or whole block, without editing this package.

    @keras.saving.register_keras_serializable("mine")
    class FromTheMean(keras.layers.Layer):
        '''In the place of attention: what each token has beyond the mean of all, projected.'''

        def __init__(self, config, **kwargs):
            super().__init__(**kwargs)
            self.project = keras.layers.Dense(config.width, dtype=self.dtype_policy)

        def call(self, tokens):
            return self.project(tokens - keras.ops.mean(tokens, axis=1, keepdims=True))

    model = keras_vit.ViT("Ti/16", image_size=224, num_classes=10, attention=FromTheMean)

The class, or a function that returns a layer, is registered with Keras, so that a saved model finds it again
once its module is imported. It is called for each block with `name` and `dtype`, and with `config` (the
`ViTConfig`) and `index` (the number of the block) if it has arguments of these names.

The layer takes tokens [B, N, width] and returns the same shape. Its `call` also gets, if it has arguments of
these names, `training`; and in the place of an attention or a block `mask` (see `Attention`), and `bias` and
`rotary`, by which the positions "relative" and "rotary2d" act. Each may be None.

- `attention=` and `mlp=` stand in an `EncoderBlock`, which norms their input, adds their output, and drops.
- `block=` replaces the `EncoderBlock`; norms, residuals, dropout, `remat` and the like are up to it.
"""

import functools
import inspect
from typing import Any

import keras

from keras_vit.config import Shape, Tensor
from keras_vit.errors import InputError

CALL_ARGUMENTS = ("mask", "bias", "rotary", "training")  # what `call` may ask for


def make_layer(
    field: str, registered: str, config: Any, index: int, name: str, dtype: Any
) -> keras.layers.Layer:
    """The layer of the user's for one block.

    Args:
        field: "attention", "mlp" or "block".
        registered: the name under which Keras has the class or function.

    Raises:
        InputError: nothing is registered under that name; what is made is no layer or has another name; its
            `call` has no argument for what the model must tell it.
    """
    maker = keras.saving.get_registered_object(registered)
    if maker is None:
        raise InputError(
            f"{field}={registered!r} is not registered with Keras here: import the module that defines it "
            "first."
        )
    known = {"config": config, "index": index}
    arguments = inspect.signature(maker).parameters
    layer = maker(**{key: known[key] for key in known if key in arguments}, name=name, dtype=dtype)
    if not isinstance(layer, keras.layers.Layer) or layer.name != name:
        given = f"a layer named {layer.name!r}" if isinstance(layer, keras.layers.Layer) else repr(layer)
        raise InputError(f"{field}={registered} must make a Keras layer named {name!r}, not {given}.")
    needed = {
        "mask": config.patch_mask and "patch_mask=True",
        "bias": config.position == "relative" and "position='relative'",
        "rotary": config.position == "rotary2d" and "position='rotary2d'",
    }
    for option, why in needed.items() if field != "mlp" else ():
        if why and option not in accepted_arguments(type(layer)):
            raise InputError(
                f"{field}={registered} cannot be in a ViT with {why}: give its `call` an argument `{option}`."
            )
    return layer


@functools.cache
def _parameters_of_call(layer_class: Any) -> set[str]:
    return set(inspect.signature(layer_class.call).parameters)


def accepted_arguments(layer_class: type) -> tuple[str, ...]:
    """Those of `CALL_ARGUMENTS` that the `call` of a class of layers has arguments for."""
    return tuple(option for option in CALL_ARGUMENTS if option in _parameters_of_call(layer_class))


def call_layer(layer: keras.layers.Layer, tokens: Tensor, **options: Any) -> Tensor:
    """`layer(tokens)` with those of the options that it takes."""
    return layer(
        tokens, **{name: options[name] for name in accepted_arguments(type(layer)) if name in options}
    )


def build(layer: keras.layers.Layer, shape: Shape) -> None:
    """Build a layer by a call on symbolic tokens, which also builds what has no `build` of its own.

    Raises:
        InputError: it does not keep the shape of the tokens.
    """
    tokens = keras.KerasTensor(shape, dtype=layer.compute_dtype)
    result = call_layer(layer, tokens, **dict.fromkeys(CALL_ARGUMENTS))
    if tuple(getattr(result, "shape", ())) != tuple(shape):
        made = getattr(result, "shape", type(result).__name__)
        raise InputError(
            f"{type(layer).__name__} {layer.name!r} makes {made} of tokens {tuple(shape)}: it must keep "
            "their shape."
        )
