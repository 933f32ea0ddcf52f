"""Which operator of a float .tflite belongs to which layer, and which tensor to which role.

The converter renames and fuses at will, so names are no guide, nor is the order of operators. What it
cannot change are the numbers. A FULLY_CONNECTED belongs to the layer whose kernel it holds; and a
tensor belongs to the role that has the same values when the model and the file see the same inputs.

A model's own numbers are not always fit for that. A fresh head gives zeros, as does a projection that starts
at zero or a ReLU that is never reached; zeros resemble all other zeros, and of two layers with equal kernels
the converter makes one. So the file is made with random kernels, by which its parts are told apart, and then
the real ones are written into the places where it holds them.
"""

import contextlib
import dataclasses
import functools
import hashlib

import keras
import numpy as np

from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.quantization.spec import quantizable_layers
from keras_vit.export.tflite.fold import from_raw
from keras_vit.layers import Convolution, Linear
from keras_vit.modalities import Modality

PROBE = "pool.attention.query"  # its input is learned
POINTS = 64  # of a tensor's sorted values are compared
SAME = 1e-3  # of the tensor's root mean square: rounding makes 1e-5, another tensor 1e-2 and more


@dataclasses.dataclass
class Op:
    kind: str
    inputs: list  # tensor indices
    outputs: list


@dataclasses.dataclass
class Pairs:
    """What in a .tflite belongs to what in the model it was made from.

    Attributes:
        layers: {index of a FULLY_CONNECTED or CONV_2D: name of the layer whose kernel it holds}.
        tables: {index of a GATHER: name of the layer whose table it holds}.
        roles: {tensor index: the roles that have its values, e.g. "block_0.attention.query.output"}.
        computed: names of layers in whose place the file has a constant, since their input is one.
    """

    layers: dict
    tables: dict
    roles: dict
    computed: set


def pair(model, convert, roles=()):
    """(bytes of the float .tflite of `model`, its `Pairs`).

    Args:
        model: a folded `ViT` or `MultimodalViT`.
        convert: a function from a model to the bytes of its float .tflite.
        roles: names of the roles to look for.

    Raises:
        RuntimeError: a role that no tensor of the file belongs to.
    """
    # What the converter computes, it must compute from the real kernels.
    kept = {name for name, layer in _hooked(model) if layer.is_constant or name == PROBE}
    real = {name: _stored_form(layer) for name, layer in _hooked(model)}
    while True:
        with _random(model, kept) as changed:
            content = bytearray(convert(model))
            names = {_key(_stored_form(layer)): name for name, layer in _hooked(model)}
            places = {key: data for key, data in _buffers(content) if key in names}
            lost = changed - {names[key] for key in places}
            if not lost:
                layers, tables = _owners(content, names)
                found = _roles(content, model, roles) if roles else {}
                break
        kept |= lost
    for key, data in places.items():
        data[:] = np.frombuffer(real[names[key]].tobytes(), "uint8")
    return bytes(content), Pairs(layers, tables, found, kept)


def read(content):
    """(operators, tensor names, tensor shapes, {tensor: constant array}) of a .tflite's graph."""
    from ai_edge_litert.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = file.subgraphs[0]
    codes = [flatbuffer_utils.opcode_to_name(file, i) for i in range(len(file.operatorCodes))]
    ops = [
        Op(codes[op.opcodeIndex], [t for t in op.inputs if t >= 0], list(op.outputs))
        for op in graph.operators
    ]
    names = [tensor.name.decode() for tensor in graph.tensors]
    shapes = [tuple(tensor.shape if tensor.shape is not None else ()) for tensor in graph.tensors]
    constants = {}
    for index, tensor in enumerate(graph.tensors):
        data = file.buffers[tensor.buffer].data
        if data is not None and len(data) and tensor.type == flatbuffer_utils.TensorType.FLOAT32:
            constants[index] = np.frombuffer(bytes(data), "float32").reshape(shapes[index])
    return ops, names, shapes, constants


def _hooked(model):
    """Yield (name, layer) for the layers whose kernel or table the file holds as the model does."""
    for name, layer in quantizable_layers(model):
        holds_table = isinstance(layer, Modality) and hasattr(layer, "table")
        if holds_table or isinstance(layer, Linear | Convolution):
            yield name, layer


def _stored_form(layer):
    """The kernel or table of a layer as it stands in a file."""
    if isinstance(layer, Modality):
        return _array(layer.table)
    return np.ascontiguousarray(np.moveaxis(_array(layer.kernel), -1, 0))


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


@contextlib.contextmanager
def _random(model, kept=(), seed=0):
    """While it lasts, the kernels and tables of all layers but the `kept` ones are random: {their names}.

    Kernels are as large as it takes for outputs of size 1, or for more than a large bias, which could hold a
    ReLU at 0. Queries are smaller, so that no softmax saturates.
    """
    random, before, sizes = np.random.default_rng(seed), {}, {}

    def choose(name, layer, role, tensor):
        if role == "input":
            sizes[name] = float(np.sqrt(np.mean(np.square(_array(tensor), dtype="float64"))))
        if role not in ("kernel", "table") or name not in known or name in kept or name in before:
            return tensor
        variable, size = getattr(layer, role), 1.0
        before[name] = variable, _array(variable)
        if role == "kernel":
            bias = 0.0 if layer.bias is None else float(np.abs(_array(layer.bias)).max())
            size = 0.2 if name.endswith(".query") else 1.0 + bias
            size /= (sizes.get(name) or 1.0) * np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(random.normal(0.0, size, variable.shape))
        return keras.ops.convert_to_tensor(variable)

    known = {name for name, _ in _hooked(model)}
    try:
        _look(model, dummy_inputs(model), choose)
        yield set(before)
    finally:
        for variable, value in before.values():
            variable.assign(value)


def _owners(content, names):
    """({index of an operator: name of the layer whose kernel it has}, {index: of the one whose table})."""
    ops, _, _, constants = read(content)
    layers, tables = {}, {}
    for index, op in enumerate(ops):
        held, found = (0, tables) if op.kind == "GATHER" else (1, layers)
        if op.kind in ("GATHER", "FULLY_CONNECTED", "CONV_2D") and op.inputs[held] in constants:
            name = names.get(_key(constants[op.inputs[held]]))
            if name is not None:  # else a fixed matrix, such as that of a spectrogram; it stays float
                found[index] = name
    return layers, tables


def _roles(content, model, wanted):
    """Tensor index -> names of the `wanted` roles that hold the same values, the nearest first."""
    ops, _, _, constants = read(content)
    seen = by_role(model, dummy_inputs(model))
    roles = {key: _sorted(values) for key, values in seen.items() if key in wanted}
    found, met = {}, set()
    for tensor, values in by_tensor(content, ops, dummy_inputs(model)).items():
        if tensor in constants:
            continue
        values = _sorted(values)
        distance = {key: _distance(values, role) for key, role in roles.items()}
        least = min(distance.values())
        if least <= SAME:
            # Queries, keys and values share their input: all its names are met, whichever range it gets.
            same = [key for key, value in distance.items() if value <= max(2 * least, SAME / 10)]
            met.update(same)
            found[tensor] = sorted(same, key=distance.get)
    missing = [key for key in roles if key not in met]
    if missing:
        # The converter may have computed what is the same for all inputs.
        other = by_role(model, dummy_inputs(model, seed=1))
        missing = [key for key in missing if not np.array_equal(seen[key], other[key])]
    if missing:
        raise RuntimeError(f"no tensor of the file holds {', '.join(missing[:5])} ({len(missing)} in all).")
    return found


def by_role(model, inputs):
    """{"layer.role": what the hook of the layer sees when `model` looks at the raw `inputs`}."""
    seen = {}

    def keep(name, layer, role, tensor):
        if role != "kernel":
            seen[f"{name}.{role}"] = _array(tensor)
        return tensor

    _look(model, inputs, keep)
    return seen


def _look(model, inputs, hook):
    """Let `model` look at the raw `inputs`, with `hook(name, layer, role, tensor)` in all of its layers."""
    layers = list(quantizable_layers(model))
    before = [layer.fake_quantize for _, layer in layers]
    try:
        for name, layer in layers:
            layer.fake_quantize = functools.partial(hook, name, layer)
        model(from_raw(inputs, model))
    finally:
        for (_, layer), own in zip(layers, before, strict=True):
            layer.fake_quantize = own


def by_tensor(content, ops, inputs):
    """{tensor index: its float values when the file looks at the raw `inputs`}."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=bytes(content),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    places = interpreter.get_signature_runner("serving_default").get_input_details()
    for name, place in places.items():
        interpreter.set_tensor(place["index"], inputs[name])
    interpreter.invoke()
    tensors = {t for op in ops for t in (*op.inputs, *op.outputs)}  # kernels have temporary ones besides
    return {
        detail["index"]: interpreter.get_tensor(detail["index"]).copy()
        for detail in interpreter.get_tensor_details()
        if detail["index"] in tensors and detail["dtype"] == np.float32
    }


def _sorted(values):
    """(number of values, some of them in order, their root mean square): the same however they are moved."""
    flat = np.sort(values, axis=None).astype("float64")
    picked = flat[np.linspace(0, len(flat) - 1, POINTS).astype(int)]
    return len(flat), np.append(picked, flat.mean()), float(np.sqrt(np.mean(flat**2)))


def _distance(one, two):
    if one[0] != two[0] or two[2] == 0:
        return np.inf
    return float(np.max(np.abs(one[1] - two[1]))) / two[2]


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _key(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
