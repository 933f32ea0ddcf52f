"""Which operator of a float .tflite belongs to which layer, and which tensor to which role.

The converter renames and fuses at will, so names are no guide, nor is the order of operators. Which tensor
has which role, the file says by its outputs (`taps`). A FULLY_CONNECTED belongs to the layer whose kernel it
holds.

A model's own kernels are not always fit for that. A fresh head is zeros, as is a projection that starts at
zero; and of two layers with equal kernels the converter makes one. So the file is made with random kernels,
by which its operators are told apart, and then the real ones are written into the places where it holds them.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator

import keras
import numpy as np

from keras_vit.export.quantization.spec import quantizable_layers
from keras_vit.export.tflite.graph import Graph, read_graph
from keras_vit.layers import Convolution, Linear
from keras_vit.modalities import Modality

LEARNED_QUERIES = "pool.attention.query"  # of attention pooling: the converter computes them


@dataclasses.dataclass
class Pairs:
    """What in a .tflite belongs to what in the model it was made from.

    Attributes:
        layers: {index of a FULLY_CONNECTED or CONV_2D: name of the layer whose kernel it holds}.
        tables: {index of a GATHER: name of the layer whose table it holds}.
        roles: {index of a tensor: its roles, e.g. "block_0.attention.query.output"}.
        computed: names of layers in whose place the file has a constant, since their input is one.
    """

    layers: dict[int, str]
    tables: dict[int, str]
    roles: dict[int, list[str]]
    computed: set[str]


def pair(
    model: keras.Model,
    convert: Callable[[keras.Model, list[str]], tuple[bytes, dict[str, int | None]]],
    roles: Collection[str] = (),
) -> tuple[bytes, Graph, Pairs]:
    """(bytes of the float .tflite of `model`, its graph, its `Pairs`).

    Args:
        model: a folded `ViT` or `MultimodalViT`.
        convert: `convert.tapped_file`, or another function from a model and roles to the bytes of its float
            .tflite and {role: index of its tensor}.
        roles: names of the roles to look for.

    Raises:
        RuntimeError: a role that no layer of the model or no tensor of the file has.
    """
    weights = dict(_layers_with_weights(model))
    real = {name: _stored_form(layer) for name, layer in weights.items()}
    # What the converter computes, it must compute from the real kernels.
    computed = {name for name, layer in weights.items() if layer.is_constant or name == LEARNED_QUERIES}
    while True:
        with _random_weights({name: weights[name] for name in weights.keys() - computed}):
            content, tensor_of = convert(model, list(roles))
            changed = bytearray(content)
            names = {_key(_stored_form(layer)): name for name, layer in weights.items()}
        places = {key: data for key, data in _buffers(changed) if key in names}
        missing = weights.keys() - computed - {names[key] for key in places}
        if not missing:
            break
        computed |= missing
    graph = read_graph(changed)
    layers, tables = _owners(graph, names)
    for key, data in places.items():
        data[:] = np.frombuffer(real[names[key]].tobytes(), "uint8")
    roles_of: dict[int, list[str]] = {}
    for role, tensor in tensor_of.items():
        if tensor is not None:
            roles_of.setdefault(tensor, []).append(role)
    content = bytes(changed)
    return content, read_graph(content), Pairs(layers, tables, roles_of, computed)


def _layers_with_weights(model):
    """Yield (name, layer) for the layers whose kernel or table the file holds as the model does."""
    for name, layer in quantizable_layers(model):
        has_table = isinstance(layer, Modality) and hasattr(layer, "table")
        if has_table or isinstance(layer, Linear | Convolution):
            yield name, layer


def _variable(layer):
    return layer.table if isinstance(layer, Modality) else layer.kernel


def _stored_form(layer):
    """The kernel or table of a layer as it stands in a file."""
    values = keras.ops.convert_to_numpy(_variable(layer))
    return values if isinstance(layer, Modality) else np.ascontiguousarray(np.moveaxis(values, -1, 0))


@contextlib.contextmanager
def _random_weights(layers: dict[str, keras.layers.Layer]) -> Iterator[None]:
    """While it lasts, the kernels and tables of these layers are random."""
    random = np.random.default_rng(0)
    before = [(_variable(layer), keras.ops.convert_to_numpy(_variable(layer))) for layer in layers.values()]
    try:
        for variable, _ in before:
            scale = np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(random.normal(0.0, scale, variable.shape))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _buffers(content):
    """Yield (key, uint8 array that shares the memory of `content`) for every buffer of a .tflite."""
    from ai_edge_litert import schema_py_generated as schema

    root, whole = schema.Model.GetRootAs(content, 0), np.frombuffer(content, "uint8")
    for buffer in map(root.Buffers, range(root.BuffersLength())):
        if buffer.Offset() > 1:  # of a file beyond 2 GB
            data = whole[buffer.Offset() : buffer.Offset() + buffer.Size()]
        elif buffer.DataLength():
            data = buffer.DataAsNumpy()
        else:
            continue
        yield _key(data), data


def _owners(graph, names):
    """({index of an operator: name of the layer whose kernel it has}, {index: of the one whose table})."""
    layers, tables = {}, {}
    for index, operator in enumerate(graph.operators):
        place, owners = (0, tables) if operator.opcode == "GATHER" else (1, layers)
        if operator.opcode in ("GATHER", "FULLY_CONNECTED", "CONV_2D"):
            constant = graph.constants.get(operator.inputs[place])
            name = None if constant is None else names.get(_key(constant))
            if name is not None:  # else a fixed matrix, such as that of a spectrogram; it stays float
                owners[index] = name
    return layers, tables


def _key(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
