"""Which operator of a float .tflite becomes int8, and which trained range belongs to which tensor.

The converter renames and fuses at will, so names are no guide. What it cannot change is the
weights: a FULLY_CONNECTED belongs to the layer whose kernel it holds. Everything else follows
from the graph: the tensors around it, and the matmuls that its results flow into.
"""

import dataclasses
import hashlib
import re

import keras
import numpy as np

from keras_vit.layers import Linear

MOVES = ("RESHAPE", "TRANSPOSE")  # they move numbers and keep the range


@dataclasses.dataclass(frozen=True)
class Rule:
    """One operator to quantize: its kind, a pattern that only its output's name fits, and how."""

    operation: str
    pattern: str
    static: bool


@dataclasses.dataclass
class Op:
    kind: str
    inputs: list  # tensor indices
    outputs: list


def plan(content, model, ranges, profile):
    """The rules for ai-edge-quantizer, and its calibration result.

    Args:
        content: bytes of the float .tflite of `model`.
        model: the folded `ViT`, whose kernels are in the file unchanged.
        ranges: "block_0.attention.query.input" -> (low, high).
        profile: the `Profile`.

    Returns:
        (list of `Rule`, {tensor name: {"min": array, "max": array}}).
    """
    ops, names, shapes, constants = read(content)
    owners = _owners(ops, constants, model)
    if profile.activations == "token":
        return [Rule("FULLY_CONNECTED", _only(names, ops[i]), False) for i in owners], {}

    found = _ranges(ops, owners, ranges)
    rules = []
    for index, op in enumerate(ops):
        dynamic = owners.get(index, "").startswith("head")
        touched = *op.inputs[: 2 if op.kind == "BATCH_MATMUL" else 1], *op.outputs
        known = op.kind in (*MOVES, "FULLY_CONNECTED", "BATCH_MATMUL") and all(t in found for t in touched)
        if dynamic or known:
            rules.append(Rule(op.kind, _only(names, op), not dynamic))
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
    """Operator index -> name of the `Linear` whose kernel it holds, for every FULLY_CONNECTED."""
    from keras_vit.export.aware import quantizable_layers

    def key(array):
        return hashlib.sha256(np.ascontiguousarray(array, "float32").tobytes()).hexdigest()

    layers = {}
    for name, layer in quantizable_layers(model):
        if isinstance(layer, Linear):
            layers.setdefault(key(keras.ops.convert_to_numpy(layer.kernel).T), []).append((name, layer))
    owners = {}
    for index, op in enumerate(ops):
        if op.kind == "FULLY_CONNECTED":
            candidates = layers.get(key(constants[op.inputs[1]]))
            if not candidates:
                raise RuntimeError(f"operator {index} holds a kernel that no layer of the model has.")
            if len(op.inputs) < 3 and all(_has_bias(layer) for _, layer in candidates):
                # A bias that the converter moved elsewhere would be missing from the trained range.
                raise RuntimeError(f"operator {index} ({candidates[0][0]}) lost its bias.")
            # Layers with equal kernels (all zeros, in practice) are met in their order.
            owners[index], _ = candidates.pop(0) if len(candidates) > 1 else candidates[0]
    return owners


def _has_bias(layer):
    return layer.use_bias and bool(
        np.any(keras.ops.convert_to_numpy(layer.bias))
    )  # the converter drops zeros


def _ranges(ops, owners, ranges):
    """Tensor index -> (low, high), spread over the moves and the attention's matmuls."""
    found = {}
    for index, name in owners.items():
        for role, tensor in (("input", ops[index].inputs[0]), ("output", ops[index].outputs[0])):
            if f"{name}.{role}" in ranges:
                found[tensor] = ranges[f"{name}.{role}"]
    producer = {t: op for op in ops for t in op.outputs}
    owner_of = {ops[i].outputs[0]: name for i, name in owners.items()}
    for op in ops:
        if op.kind != "BATCH_MATMUL":
            continue
        tensor = op.inputs[1]
        while tensor in producer and producer[tensor].kind in MOVES:
            tensor = producer[tensor].inputs[0]
        layer, _, role = owner_of[tensor].rpartition(".")
        if role == "key":
            found[op.outputs[0]] = ranges[f"{layer}.scores"]
        else:
            found[op.inputs[0]] = ranges[f"{layer}.probabilities"]
            found[op.outputs[0]] = ranges[f"{layer}.output.input"]
    changed = True
    while changed:  # along every RESHAPE and TRANSPOSE, in both directions
        changed = False
        for op in ops:
            if op.kind in MOVES:
                a, b = op.inputs[0], op.outputs[0]
                for source, target in ((a, b), (b, a)):
                    if source in found and target not in found:
                        found[target] = found[source]
                        changed = True
    return found


def _only(names, op):
    """A pattern that fits this operator's scope (its outputs' names) and no other."""
    return "^" + re.escape("".join(names[t] + ";" for t in op.outputs)) + "$"
