"""Which operators of a float .tflite become int8, and with which ranges: the recipe for ai-edge-quantizer.

Which operator and tensor of the file is which layer and role of the model, `export.tflite.pairing` finds.
"""

import dataclasses
import re

import keras
import numpy as np

from keras_vit.export.quantization.fake_quant import BLOCK
from keras_vit.export.tflite.graph import MOVES, Graph, Operator
from keras_vit.export.tflite.implied_ranges import Ranges, add_implied_ranges, range_with_zero
from keras_vit.export.tflite.pairing import Pairs
from keras_vit.models.vit import ViT

POOLS = ("MAX_POOL_2D", "PAD")  # their numbers are others, in the same range
SLICES = ("STRIDED_SLICE", "SLICE")  # so are theirs; but what is sliced may be float, and the slice not
PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")
# What else our models consist of that has an int8 kernel in LiteRT and is known to ai-edge-quantizer.
ELEMENTWISE = (
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
# What may stay float in an int8_full file of a `MultimodalViT`: masks, the spectrograms of sounds, tracks
# before their projection, scores of learned queries. In that of a `ViT` nothing may; in files of other
# profiles everything may but the operators of quantized layers.
FLOAT_IN_FULL = frozenset(
    {
        "ADD",
        "BATCH_MATMUL",
        "CAST",
        "CONCATENATION",
        "FULLY_CONNECTED",
        "GATHER",
        "LOG",
        "MAXIMUM",
        "MUL",
        "PAD",
        "RESHAPE",
        "SELECT_V2",
        "STRIDED_SLICE",
        "SUB",
    }
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One operator to quantize, and how.

    Attributes:
        opcode: its name.
        pattern: a regular expression that fits the names of its outputs, and no others.
        static: whether its tensors have ranges; else the activations are quantized at run time.
        bits: of its weights.
        block: how many inputs share a scale; 0 for one scale for each output channel.
    """

    opcode: str
    pattern: str
    static: bool
    bits: int = 8
    block: int = 0


def recipe(
    content: bytes,
    graph: Graph,
    pairs: Pairs,
    model: keras.Model,
    ranges: dict[str, tuple[float, float]],
    spec: dict[str, str],
    full: bool = False,
) -> tuple[list[Rule], dict[str, dict[str, np.ndarray]]]:
    """The rules for ai-edge-quantizer, and what stands in the place of its calibration.

    Args:
        content, graph, pairs: what `pair` gives of `model`.
        model: the folded model.
        ranges: "block_0.attention.query.input" -> (low, high), of all roles that have been paired.
        spec: "block_0.attention.query.kernel" -> its quantizer, see `quantization_spec`.
        full: every operator becomes int8, not only the products and what lies between them: of a `ViT` all of
            them; of a `MultimodalViT` all but some of `FLOAT_IN_FULL`.

    Returns:
        (list of `Rule`, {tensor name: {"min": array, "max": array}}).

    Raises:
        RuntimeError: a quantized kernel that the file does not have, an operator that would stay float and
            must not.
    """
    quantized = {role.removesuffix(".kernel") for role in spec if role.endswith(".kernel")}
    missing = quantized - set(pairs.layers.values()) - pairs.computed
    if missing:
        raise RuntimeError(f"no operator of the file holds the kernel of {', '.join(sorted(missing)[:5])}.")
    tensor_ranges = _ranges_of_roles(graph, pairs, ranges)
    tables = [index for index, name in pairs.tables.items() if f"{name}.table" in spec]
    for index in tables:
        operator = graph.operators[index]
        tensor_ranges[operator.outputs[0]] = range_with_zero(graph.constants[operator.inputs[0]])
    if full:
        add_implied_ranges(content, graph, model, tensor_ranges)
    everything = full and isinstance(model, ViT)
    rules, floats = [], []
    for index, operator in enumerate(graph.operators):
        owner = pairs.layers.get(index)
        pattern = _only(graph, operator)
        if owner is not None and spec.get(f"{owner}.input") == "token":
            quantizer = spec.get(f"{owner}.kernel")
            bits, block = (8 if quantizer == "weight" else 4), (BLOCK if quantizer == "weight4_block" else 0)
            rules.append(Rule(operator.opcode, pattern, False, bits, block))
        elif (
            everything
            or index in tables
            or ((owner is None or owner in quantized) and _is_int8(graph, operator, tensor_ranges, full))
        ):
            rules.append(Rule(operator.opcode, pattern, True))
        elif owner in quantized or (full and _may_not_stay_float(graph, operator)):
            floats.append(f"{operator.opcode} {graph.names[operator.outputs[0]]}")
    if everything:
        tensors = {tensor for operator in graph.operators for tensor in operator.outputs}
        unknown = sorted(tensors - set(tensor_ranges) - set(graph.constants))
        floats = [graph.names[tensor] for tensor in unknown]
    if floats:
        raise RuntimeError(f"no range is known for {', '.join(floats[:5])} ({len(floats)} in all).")
    return rules, _as_calibration(graph, tensor_ranges)


def _is_int8(graph, operator, ranges, full):
    """Whether an operator without weights, or with quantized ones, has all the ranges that it needs."""
    # A BATCH_MATMUL with a constant stays float: LiteRT's int8 one gives wrong numbers.
    if full and operator.opcode != "BATCH_MATMUL":
        known = (*MOVES, *POOLS, *PRODUCTS, *SLICES, *ELEMENTWISE)
        needed = [tensor for tensor in operator.inputs if tensor in graph.floats - set(graph.constants)]
    else:
        known = (*MOVES, *POOLS, *PRODUCTS)
        needed = operator.inputs[: 2 if operator.opcode == "BATCH_MATMUL" else 1]
    return operator.opcode in known and all(tensor in ranges for tensor in (*needed, *operator.outputs))


def _may_not_stay_float(graph, operator):
    return operator.outputs[0] in graph.floats and operator.opcode not in FLOAT_IN_FULL


def with_scores(ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """`ranges` of roles, where scores have the one that they have with a mask added: no second rounding."""
    masked = {role: value for role, value in ranges.items() if role.endswith(".biased")}
    return {**ranges, **{role.replace(".biased", ".scores"): value for role, value in masked.items()}}


def _ranges_of_roles(graph, pairs, ranges):
    """The ranges of the tensors that have a role, and of those that hold the same numbers."""
    known: Ranges = {tensor: ranges[roles[0]] for tensor, roles in pairs.roles.items()}
    for operator in reversed(graph.operators):
        if operator.opcode in MOVES and operator.outputs[0] in known:
            known.setdefault(operator.inputs[0], known[operator.outputs[0]])
    for operator in graph.operators:
        if operator.opcode in (*MOVES, *POOLS, *SLICES) and operator.inputs[0] in known:
            known.setdefault(operator.outputs[0], known[operator.inputs[0]])
    return known


def _only(graph: Graph, operator: Operator) -> str:
    """A pattern that fits this operator's scope (its outputs' names) and no other."""
    return "^" + re.escape("".join(graph.names[tensor] + ";" for tensor in operator.outputs)) + "$"


def _as_calibration(graph, ranges):
    """The ranges in the form of a result of ai-edge-quantizer's own calibration."""
    return {
        graph.names[tensor]: {
            "min": np.full((1,) * len(graph.shapes[tensor]), low, "float32"),
            # Of zeros alone: any range but an empty one.
            "max": np.full((1,) * len(graph.shapes[tensor]), high if high > low else 1.0, "float32"),
        }
        for tensor, (low, high) in ranges.items()
    }
