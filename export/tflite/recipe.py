"""Which operator of a float .tflite becomes int8, and which trained range belongs to which tensor.

Which operator and tensor of the file is which layer and role of the model, `export.tflite.pairing` finds.
"""

import dataclasses
import re

import numpy as np

from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.quantization.fake_quant import BLOCK, FIXED
from keras_vit.export.tflite.pairing import by_tensor, read
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


@dataclasses.dataclass(frozen=True)
class Rule:
    """One operator to quantize: its kind, a pattern that only its output's name fits, and how."""

    operation: str
    pattern: str
    static: bool
    bits: int = 8
    block: int = 0


def plan(content, pairs, model, ranges, kinds, full=False):
    """The rules for ai-edge-quantizer, and its calibration result.

    Args:
        content: bytes of the float .tflite of `model`.
        pairs: its `Pairs`.
        model: the folded model.
        ranges: "block_0.attention.query.input" -> (low, high), of all roles that have been paired.
        kinds: "block_0.attention.query.kernel" -> kind of fake quantizer.
        full: every operator becomes int8, not only the products and what lies between them: of a `ViT` all of
            them, else an error; of a `MultimodalViT` those whose float tensors all have ranges.

    Returns:
        (list of `Rule`, {tensor name: {"min": array, "max": array}}).
    """
    ops, names, shapes, constants = read(content)
    owners = pairs.layers
    lost = {key.removesuffix(".kernel") for key in kinds if key.endswith(".kernel")} - set(owners.values())
    lost -= pairs.computed
    if lost:
        raise RuntimeError(f"no operator of the file holds the kernel of {', '.join(sorted(lost)[:5])}.")
    found = _ranges(ops, pairs, ranges)
    tables = [index for index, name in pairs.tables.items() if f"{name}.table" in kinds]
    for index in tables:
        table = constants[ops[index].inputs[0]]
        found[ops[index].outputs[0]] = (min(float(table.min()), 0.0), max(float(table.max()), 0.0))
    rules = []
    floats = _floats(content) - set(constants)
    if full:
        _fix_probabilities(ops, found)
        _fix_images(ops, names, constants, model, found)
        _fix_masks(ops, constants, found)
        _fix_joins(ops, floats, found)
    all_of_it = full and isinstance(model, ViT)
    if all_of_it:
        _fix_constants(content, ops, model, found)
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
            # Of zeros alone: any range but an empty one.
            "max": np.full((1,) * len(shapes[t]), high if high > low else 1.0, "float32"),
        }
        for t, (low, high) in found.items()
    }
    return rules, calibration


def _floats(content):
    """Indices of the float32 tensors of a .tflite's graph."""
    from ai_edge_litert.tools import flatbuffer_utils

    tensors = flatbuffer_utils.read_model_from_bytearray(bytearray(content)).subgraphs[0].tensors
    return {i for i, tensor in enumerate(tensors) if tensor.type == flatbuffer_utils.TensorType.FLOAT32}


def with_scores(ranges):
    """`ranges` of roles, where scores have the one that they have with a mask added: no second rounding."""
    masked = {key: value for key, value in ranges.items() if key.endswith(".biased")}
    return {**ranges, **{key.replace(".biased", ".scores"): value for key, value in masked.items()}}


def _ranges(ops, pairs, ranges):
    """Tensor index -> (low, high), of every tensor that holds what some role with a range holds."""
    found = {tensor: ranges[roles[0]] for tensor, roles in pairs.roles.items()}
    for op in ops:
        if op.kind in (*MOVES, *POOLS, *SLICES) and op.inputs[0] in found:
            found.setdefault(op.outputs[0], found[op.inputs[0]])
    return found


def _fix_constants(content, ops, model, found):
    """What is the same for all inputs has the range of its values."""
    unknown = {t for op in ops for t in op.outputs} - set(found)
    if unknown:
        one, two = (by_tensor(content, ops, dummy_inputs(model, seed=seed)) for seed in (0, 1))
        for t in unknown & set(one):
            if np.array_equal(one[t], two[t]):
                found[t] = (min(float(one[t].min()), 0.0), max(float(one[t].max()), 0.0))


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


def _only(names, op):
    """A pattern that fits this operator's scope (its outputs' names) and no other."""
    return "^" + re.escape("".join(names[t] + ";" for t in op.outputs)) + "$"


def pixel_inputs(model):
    """Names of a `MultimodalViT`'s inputs that are pixels."""
    return {name for name, modality in model.modalities.items() if isinstance(modality, Pixels)}
