"""`features`: any intermediate value of a model by its name, from the model itself.

A name is the path of a layer, as its parts are called in `keras_vit.layers`: "patches",
"block_3", "block_3.mlp.expand", "norm", "head". It stands for the layer's output. `Linear` and
`Attention` compute more than their output, and say so through their `fake_quantize` hooks:
"block_3.mlp.expand.input", "block_3.attention.scores", "block_3.attention.probabilities".
"""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit._compat import flatten_layers
from keras_vit.errors import InputError
from keras_vit.layers import Attention, Linear
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.vit import ViT

ROLES = {Linear: ("input", "kernel", "output"), Attention: ("scores", "probabilities")}


def features(model: keras.Model, images: Any, names: str | Iterable[str]) -> dict[str, np.ndarray]:
    """Intermediate values of one pass in inference; the model is left as it was.

    All tokens are computed, also by the last block, where a pass that only wants the answer
    computes those that are pooled. The values are those that the model goes on with: in a
    `QuantizeAware` model they are rounded already.

    Args:
        model: a `ViT` or a `MultimodalViT`, or a model around one.
        images: what the model takes: normalised [B, H, W, 3], or {"image", "patch_mask"}, or the inputs of
            several modalities.
        names: names of `feature_names`, or one of them.

    Returns:
        {name: NumPy array}; half precision comes as float32. Of a layer that is called more than
        once (`pool` of a distilled model), the first call.

    Raises:
        InputError: a name that this model does not have, or does not compute.
    """
    names = [names] if isinstance(names, str) else list(names)
    places = _places(model_in(model))
    for name in names:
        if name not in places:
            raise InputError(f"this model has no value named {name!r}: {_known(name, places)}")
    with recording(model, names, _numpy, compute_all_tokens=True) as values:
        model(images, training=False)
    for name in names:
        if name not in values:
            near = [other for other in places if other.startswith(f"{name}.")]
            raise InputError(f"{name!r} is not computed when this model answers: {_known(name, near)}")
    return {name: values[name] for name in names}


def feature_names(model: keras.Model) -> list[str]:
    """The names that `features` knows, in the order in which the model computes them.

    They are found by a pass over a blank image.
    """
    vit = vit_in(model)
    blank = np.zeros((1, *vit.signature()["image"]["shape"]), "float32")
    with recording(model, _places(vit), lambda value: True, compute_all_tokens=True) as values:
        model(blank, training=False)
    return list(values)


def vit_in(model: keras.Model) -> ViT:
    """The `ViT` that `model` is, or that it carries as its attribute `model`, as `QuantizeAware` does."""
    return _inside(model, ViT, "a ViT")


def model_in(model: keras.Model) -> ViT | MultimodalViT:
    """The `ViT` or `MultimodalViT` that `model` is or carries."""
    return _inside(model, ViT | MultimodalViT, "a ViT, a MultimodalViT")


def _inside(model, classes, name):
    for candidate in (model, getattr(model, "model", None)):
        if isinstance(candidate, classes):
            return candidate
    raise InputError(f"expected {name} or a model around one, not {type(model).__name__}.")


def _places(root):
    """{name: (layer, role)} of everything below `root`; the role None is the layer's output."""
    layers = {}

    def walk(layer, prefix):
        for child in flatten_layers(layer, include_self=False, recursive=False):
            name = f"{prefix}{child.name}"
            layers[name] = (child, None)
            for layer_class, roles in ROLES.items():
                if isinstance(child, layer_class):
                    layers.update({f"{name}.{role}": (child, role) for role in roles})
            walk(child, f"{name}.")

    walk(root, "")
    return layers


@contextlib.contextmanager
def recording(
    model: keras.Model,
    names: Iterable[str],
    keep: Callable[[Any], Any] = lambda value: value,
    compute_all_tokens: bool = False,
) -> Iterator[dict[str, Any]]:
    """Within, a call of `model` fills the dictionary that is yielded: {name: keep(value)}, in their order.

    Args:
        model: as in `features`.
        names: names of `feature_names`.
        keep: what to make of a value; by itself it is the backend's tensor, symbolic in a traced call.
        compute_all_tokens: compute those that the last block leaves out, too.
    """
    places, values = _places(model_in(model)), {}

    def record(name, value):
        if name not in values and value is not None:
            values[name] = keep(value)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(model_in(model), "compute_all_tokens", compute_all_tokens))
        for name in names:
            layer, role = places[name]
            attribute, watched = ("call", _call) if role is None else ("fake_quantize", _hook)
            function = watched(getattr(layer, attribute), role, lambda value, name=name: record(name, value))
            stack.enter_context(_replaced(layer, attribute, function))
        yield values


def _call(call, _, record):
    def recording_call(*arguments, **options):
        result = call(*arguments, **options)
        record(result)
        return result

    return recording_call


def _hook(hook, role, record):
    def recording_hook(given_role, tensor):
        tensor = hook(given_role, tensor)
        if given_role == role:
            record(tensor)
        return tensor

    return recording_hook


@contextlib.contextmanager
def _replaced(layer, name, value):
    """Within, the instance `layer` has another attribute. Past Keras' own bookkeeping of attributes."""
    had_own, before = name in vars(layer), vars(layer).get(name)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if had_own:
            object.__setattr__(layer, name, before)
        else:
            object.__delattr__(layer, name)


def _numpy(value):
    """A copy, also of what a layer returns in a tuple or dictionary."""
    if not hasattr(value, "dtype"):
        return keras.tree.map_structure(_numpy, value)
    half = keras.backend.standardize_dtype(value.dtype) in ("float16", "bfloat16")
    return np.array(ops.convert_to_numpy(value), dtype="float32" if half else None)


def _known(name, names):
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or list(names)[:3]
    nearest = f"the nearest are {', '.join(near)}; " if near else ""
    return f"{nearest}keras_vit.inspect.feature_names(model) lists all."
