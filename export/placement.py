"""Which operator of a float .tflite becomes int8, and which trained range belongs to which tensor.

The converter renames and fuses at will, so names are no guide, nor is the order of operators. What it
cannot change are the numbers. A FULLY_CONNECTED belongs to the layer whose kernel it holds; and a
tensor belongs to the role that has the same values when the model and the file see the same inputs.
"""

import dataclasses
import hashlib
import re

import keras
import numpy as np

from keras_vit.export.graph import from_raw
from keras_vit.export.kinds import quantizable_layers
from keras_vit.export.probe import made_inputs
from keras_vit.export.quantizers import BLOCK, FIXED
from keras_vit.layers import Convolution, Linear

MOVES = ("RESHAPE", "TRANSPOSE")  # they move numbers and keep the range
POOLS = ("MAX_POOL_2D", "PAD")  # their numbers are others, in the same range
SLICES = ("STRIDED_SLICE", "SLICE")  # so are theirs; but what is sliced may be float, and the slice not
MATMULS = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")
POINTS = 64  # of a tensor's sorted values are compared
SAME = 1e-3  # of the tensor's root mean square: rounding makes 1e-5, another tensor 1e-2 and more


@dataclasses.dataclass(frozen=True)
class Rule:
    """One operator to quantize: its kind, a pattern that only its output's name fits, and how."""

    operation: str
    pattern: str
    static: bool
    bits: int = 8
    block: int = 0


@dataclasses.dataclass
class Op:
    kind: str
    inputs: list  # tensor indices
    outputs: list


def plan(content, model, ranges, kinds, full=False):
    """The rules for ai-edge-quantizer, and its calibration result.

    Args:
        content: bytes of the float .tflite of `model`.
        model: the folded model, whose kernels are in the file unchanged.
        ranges: "block_0.attention.query.input" -> (low, high).
        kinds: "block_0.attention.query.kernel" -> kind of fake quantizer.
        full: every operator must become int8, not only the products and what lies between them.

    Returns:
        (list of `Rule`, {tensor name: {"min": array, "max": array}}).
    """
    ops, names, shapes, constants = read(content)
    owners = _owners(ops, constants, model)
    lost = {key.removesuffix(".kernel") for key in kinds if key.endswith(".kernel")} - set(owners.values())
    lost.discard("pool.attention.query")  # of a learned probe: a constant in the file
    if lost:
        raise RuntimeError(f"no operator of the file holds the kernel of {', '.join(sorted(lost)[:5])}.")
    found = _ranges(content, ops, constants, model, ranges) if ranges else {}
    rules = []
    if full:
        _fix_softmax(ops, found)
        _fix_image(ops, constants, found)
        lost = [names[t] for op in ops for t in op.outputs if t not in found and t not in constants]
        if lost:
            raise RuntimeError(f"no range is known for {', '.join(lost[:5])} ({len(lost)} in all).")
    for index, op in enumerate(ops):
        owner = owners.get(index)
        kernel = kinds.get(f"{owner}.kernel")
        touched = *op.inputs[: 2 if op.kind == "BATCH_MATMUL" else 1], *op.outputs
        if owner is not None and kinds.get(f"{owner}.input") == "token":
            bits, block = (8 if kernel == "weight" else 4), (BLOCK if kernel == "weight4_block" else 0)
            rules.append(Rule(op.kind, _only(names, op), False, bits, block))
        elif full or (
            op.kind in (*MOVES, *POOLS, *MATMULS)
            and (owner is None or kernel)
            and all(t in found for t in touched)
        ):
            rules.append(Rule(op.kind, _only(names, op), True))
    calibration = {
        names[t]: {
            "min": np.full((1,) * len(shapes[t]), low, "float32"),
            "max": np.full((1,) * len(shapes[t]), high, "float32"),
        }
        for t, (low, high) in found.items()
    }
    return rules, calibration


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


def _owners(ops, constants, model):
    """Operator index -> name of the layer whose kernel it holds, for FULLY_CONNECTED and CONV_2D."""
    layers = {}
    for name, layer in quantizable_layers(model):
        if isinstance(layer, Linear | Convolution):
            kernel = np.moveaxis(keras.ops.convert_to_numpy(layer.kernel), -1, 0)  # as in the file
            layers.setdefault(_key(kernel), []).append(name)
    owners = {}
    for index, op in enumerate(ops):
        if op.kind in ("FULLY_CONNECTED", "CONV_2D") and op.inputs[1] in constants:
            candidates = layers.get(_key(constants[op.inputs[1]]))
            if not candidates:
                continue  # a fixed matrix, such as that of a spectrogram; it stays float
            # Layers with equal kernels (all zeros, in practice) are met in their order.
            owners[index] = candidates.pop(0) if len(candidates) > 1 else candidates[0]
    return owners


def _key(array):
    return hashlib.sha256(np.ascontiguousarray(array, "float32").tobytes()).hexdigest()


def _ranges(content, ops, constants, model, ranges):
    """Tensor index -> (low, high), of every tensor that holds what some role with a range holds."""
    inputs = made_inputs(model)
    roles = {key: _sorted(values) for key, values in _by_role(model, inputs).items() if key in ranges}
    found, met = {}, set()
    for tensor, values in _by_tensor(content, ops, inputs).items():
        if tensor in constants:
            continue
        values = _sorted(values)
        distance = {key: _distance(values, role) for key, role in roles.items()}
        least = min(distance.values())
        if least <= SAME:
            # Queries, keys and values share their input: all its names are met, whichever range it gets.
            same = [key for key, value in distance.items() if value <= max(2 * least, SAME / 10)]
            met.update(same)
            found[tensor] = ranges[min(same, key=distance.get)]
    missing = [key for key in roles if key not in met and np.ptp(roles[key][1]) > 0]
    if missing:
        raise RuntimeError(f"no tensor of the file holds {', '.join(missing[:5])} ({len(missing)} in all).")
    for op in ops:
        if op.kind in (*MOVES, *POOLS, *SLICES) and op.inputs[0] in found:
            found.setdefault(op.outputs[0], found[op.inputs[0]])
    return found


def _fix_softmax(ops, found):
    """LiteRT's int8 softmax always answers in 0..255/256, also at the end of the model."""
    for op in ops:
        if op.kind == "SOFTMAX":
            found[op.outputs[0]] = FIXED["probability"]


def _fix_image(ops, constants, found):
    """The image is 0..255, and so is what a stem that pads multiplies by its 1 / (255 std)."""
    image = ops[0].inputs[0]
    found.setdefault(image, FIXED["pixels"])
    for op in ops:
        if op.kind == "MUL" and op.inputs[0] == image and op.inputs[1] in constants:
            found.setdefault(op.outputs[0], (0.0, 255.0 * float(constants[op.inputs[1]].max())))


def _by_role(model, inputs):
    """{"layer.role": what the hook of the layer sees when `model` looks at the raw `inputs`}."""
    seen = {}

    def look(name):
        def hook(role, tensor):
            if role != "kernel":
                seen[f"{name}.{role}"] = keras.ops.convert_to_numpy(tensor)
            return tensor

        return hook

    before = [(layer, layer.quantize) for _, layer in quantizable_layers(model)]
    try:
        for name, layer in quantizable_layers(model):
            layer.quantize = look(name)
        model(from_raw(inputs, model))
    finally:
        for layer, hook in before:
            layer.quantize = hook
    return seen


def _by_tensor(content, ops, inputs):
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


def _only(names, op):
    """A pattern that fits this operator's scope (its outputs' names) and no other."""
    return "^" + re.escape("".join(names[t] + ";" for t in op.outputs)) + "$"
