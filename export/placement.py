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
from keras_vit.modalities.pixels import Pixels
from keras_vit.models.vit import ViT

MOVES = ("RESHAPE", "TRANSPOSE")  # they move numbers and keep the range
POOLS = ("MAX_POOL_2D", "PAD")  # their numbers are others, in the same range
SLICES = ("STRIDED_SLICE", "SLICE")  # so are theirs; but what is sliced may be float, and the slice not
MATMULS = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")
# What else our models consist of that has an int8 kernel in LiteRT and is known to ai-edge-quantizer.
OTHERS = (
    "ADD",
    "CONCATENATION",
    "GATHER",
    "GELU",
    "LOGISTIC",
    "MEAN",
    "MUL",
    "RSQRT",
    "SELECT_V2",
    "SOFTMAX",
    "SUB",
    "SUM",
)
INPUT = "serving_default_"  # the converter names the tensor of an input `INPUT` + its name + ":0"
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
        full: every operator becomes int8, not only the products and what lies between them: of a `ViT` all of
            them, else an error; of a `MultimodalViT` those whose float tensors all have ranges.

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
    tables = _fix_tables(ops, constants, model, kinds, found)
    rules = []
    floats = _floats(content) - set(constants)
    if full:
        _fix_probabilities(ops, found)
        _fix_images(ops, names, constants, model, found)
        _fix_masks(ops, constants, found)
        _fix_joins(ops, floats, found)
    all_of_it = full and isinstance(model, ViT)
    if all_of_it:
        lost = [names[t] for op in ops for t in op.outputs if t not in found and t not in constants]
        if lost:
            raise RuntimeError(f"no range is known for {', '.join(lost[:5])} ({len(lost)} in all).")
    for index, op in enumerate(ops):
        owner = owners.get(index)
        kernel = kinds.get(f"{owner}.kernel")
        if owner is not None and kinds.get(f"{owner}.input") == "token":
            bits, block = (8 if kernel == "weight" else 4), (BLOCK if kernel == "weight4_block" else 0)
            rules.append(Rule(op.kind, _only(names, op), False, bits, block))
            continue
        # A BATCH_MATMUL with a constant stays float: LiteRT's int8 one gives wrong numbers.
        known, touched = (*MOVES, *POOLS, *MATMULS), op.inputs[: 2 if op.kind == "BATCH_MATMUL" else 1]
        if full and op.kind != "BATCH_MATMUL":
            known, touched = (*known, *SLICES, *OTHERS), [t for t in op.inputs if t in floats]
        has_ranges = all(t in found for t in (*touched, *op.outputs))
        known_int8 = op.kind in known and has_ranges and (owner is None or kernel)
        if all_of_it or known_int8 or index in tables:
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


def _floats(content):
    """Indices of the float32 tensors of a .tflite's graph."""
    from ai_edge_litert.tools import flatbuffer_utils

    tensors = flatbuffer_utils.read_model_from_bytearray(bytearray(content)).subgraphs[0].tensors
    return {i for i, tensor in enumerate(tensors) if tensor.type == flatbuffer_utils.TensorType.FLOAT32}


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
    # Scores have the range that they have with a mask added: then that is no second rounding.
    masked = {key: value for key, value in ranges.items() if key.endswith(".biased")}
    ranges = {**ranges, **{key.replace(".biased", ".scores"): value for key, value in masked.items()}}
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


def _fix_tables(ops, constants, model, kinds, found):
    """Indices of the operators GATHER whose table becomes int8; what they give has the range of that."""
    tables = {
        _key(keras.ops.convert_to_numpy(layer.table))
        for name, layer in quantizable_layers(model)
        if f"{name}.table" in kinds and hasattr(layer, "table")
    }
    indices = set()
    for index, op in enumerate(ops):
        table = constants.get(op.inputs[0]) if op.kind == "GATHER" else None
        if table is not None and _key(table) in tables:
            indices.add(index)
            found[op.outputs[0]] = (min(float(table.min()), 0.0), max(float(table.max()), 0.0))
    return indices


def _fix_probabilities(ops, found):
    """LiteRT's int8 softmax and sigmoid always answer in 0..255/256, also at the end of the model."""
    for op in ops:
        if op.kind in ("SOFTMAX", "LOGISTIC"):
            found[op.outputs[0]] = FIXED["probability"]


def _fix_images(ops, names, constants, model, found):
    """Images are 0..255, and so is what is multiplied by its 1 / (255 std) where normalisation stays outside.

    Other inputs stay float: of a track, rounding could make the number that stands for "no step".
    """
    pixels = {"image"} if isinstance(model, ViT) else pixel_inputs(model)
    inputs = {index: name[len(INPUT) : -2] for index, name in enumerate(names) if name.startswith(INPUT)}
    for index, name in inputs.items():
        found.pop(index, None)
        if name in pixels:
            found[index] = FIXED["pixels"]
    images = {index for index, name in inputs.items() if name in pixels}
    for op in ops:
        if op.kind == "MUL" and op.inputs[0] in images and op.inputs[1] in constants:
            found.setdefault(op.outputs[0], (0.0, 255.0 * float(constants[op.inputs[1]].max())))


def _fix_masks(ops, constants, found):
    """What is made of a mask: 0 or 1 times the vector of a modality, and what is added to scores."""
    made_by = {t: op for op in ops for t in op.outputs}
    into_softmax = {op.inputs[0] for op in ops if op.kind == "SOFTMAX"}
    for op in ops:
        first, second = (*op.inputs[:2], None, None)[:2]
        if op.kind == "MUL" and second in constants and made_by.get(first, op).kind == "CAST":
            found.setdefault(first, (0.0, 1.0))
            vector = constants[second]
            found.setdefault(op.outputs[0], (min(0.0, float(vector.min())), max(0.0, float(vector.max()))))
        if op.kind == "ADD" and op.outputs[0] in into_softmax and op.outputs[0] in found and first in found:
            # Added to the highest score it gives the lowest number of the sum: whatever is lower, is clipped.
            step = found[op.outputs[0]][0] - found[first][1]
            found[second] = (min(step, found.get(second, (0.0, 0.0))[0]), 0.0)


def _fix_joins(ops, floats, found):
    """What is joined has one range."""
    for op in ops:
        if op.kind == "CONCATENATION" and op.outputs[0] in found:
            for t in op.inputs:
                if t in floats:
                    found.setdefault(t, found[op.outputs[0]])


def _by_role(model, inputs):
    """{"layer.role": what the hook of the layer sees when `model` looks at the raw `inputs`}."""
    seen = {}

    def look(name):
        def hook(role, tensor):
            if role != "kernel":
                seen[f"{name}.{role}"] = keras.ops.convert_to_numpy(tensor)
            return tensor

        return hook

    before = [(layer, layer.fake_quantize) for _, layer in quantizable_layers(model)]
    try:
        for name, layer in quantizable_layers(model):
            layer.fake_quantize = look(name)
        model(from_raw(inputs, model))
    finally:
        for layer, hook in before:
            layer.fake_quantize = hook
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


def pixel_inputs(model):
    """Names of a `MultimodalViT`'s inputs that are pixels."""
    return {name for name, modality in model.modalities.items() if isinstance(modality, Pixels)}
