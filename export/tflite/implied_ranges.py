"""Ranges that an int8_full file needs besides those of roles.

They follow from other ranges, from constants, or from what an operator does.
"""

import keras
import numpy as np

from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.quantization.fake_quant import FIXED
from keras_vit.export.tflite.graph import Graph, values_of_tensors
from keras_vit.modalities.pixels import Pixels
from keras_vit.models.vit import ViT

LARGEST_EPSILON = 1e-4  # of a LayerNorm
INPUT = "serving_default_"  # the converter names the tensor of an input `INPUT` + its name + ":0"

Ranges = dict[int, tuple[float, float]]  # {index of a tensor: (low, high)}


def add_implied_ranges(content: bytes, graph: Graph, model: keras.Model, ranges: Ranges) -> None:
    """Add to `ranges` those of tensors without a role that follow from others.

    Args:
        content, graph: of a float .tflite.
        model: the folded model that it was made from.
        ranges: {index of a tensor: (low, high)}; is changed.
    """
    _add_epsilons(graph, ranges)
    _add_probabilities(graph, ranges)
    _add_images(graph, model, ranges)
    _add_masks(graph, ranges)
    _add_joined(graph, ranges)
    _add_selected(graph, ranges)
    if isinstance(model, ViT):
        _add_constants(content, graph, model, ranges)


def _add_epsilons(graph, ranges):
    """LayerNorm adds its epsilon to the variance: too little for another range."""
    for operator in graph.operators:
        if operator.opcode == "ADD" and operator.inputs[0] in ranges:
            constant = graph.constants.get(operator.inputs[1])
            if constant is not None and np.abs(constant).max() <= LARGEST_EPSILON:
                ranges.setdefault(operator.outputs[0], ranges[operator.inputs[0]])


def _add_probabilities(graph, ranges):
    """LiteRT's int8 softmax and sigmoid always answer in 0..255/256, also at the end of the model."""
    for operator in graph.operators:
        if operator.opcode in ("SOFTMAX", "LOGISTIC"):
            ranges[operator.outputs[0]] = FIXED["probability"]


def _add_images(graph, model, ranges):
    """Images are 0..255, and so is what is multiplied by its 1 / (255 std) where normalisation stays outside.

    Other inputs stay float: of a track, rounding could make the number that stands for "no step".
    """
    pixels = {"image"} if isinstance(model, ViT) else pixel_inputs(model)
    inputs = {i: name[len(INPUT) : -2] for i, name in enumerate(graph.names) if _is_input(graph, i)}
    for index, name in inputs.items():
        ranges.pop(index, None)
        if name in pixels:
            ranges[index] = FIXED["pixels"]
    images = {index for index, name in inputs.items() if name in pixels}
    for operator in graph.operators:
        if (
            operator.opcode == "MUL"
            and operator.inputs[0] in images
            and operator.inputs[1] in graph.constants
        ):
            factor = float(graph.constants[operator.inputs[1]].max())
            ranges.setdefault(operator.outputs[0], (0.0, 255.0 * factor))


def _is_input(graph, tensor):
    return graph.names[tensor].startswith(INPUT)


def _add_masks(graph, ranges):
    """What is made of a mask: 0 or 1 times the vector of a modality, and what is added to scores."""
    made_by = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
    into_softmax = {operator.inputs[0] for operator in graph.operators if operator.opcode == "SOFTMAX"}
    for operator in graph.operators:
        first, second = (*operator.inputs[:2], None, None)[:2]
        output = operator.outputs[0]
        is_mask = made_by.get(first, operator).opcode == "CAST"
        if operator.opcode == "MUL" and is_mask and second in graph.constants:
            ranges.setdefault(first, (0.0, 1.0))
            ranges.setdefault(output, range_with_zero(graph.constants[second]))
        if operator.opcode == "ADD" and output in into_softmax and output in ranges and first in ranges:
            # Added to the highest score it gives the lowest number of the sum: whatever is lower, is clipped.
            step = ranges[output][0] - ranges[first][1]
            ranges[second] = (min(step, ranges.get(second, (0.0, 0.0))[0]), 0.0)


def _add_joined(graph, ranges):
    """What is joined has one range."""
    for operator in graph.operators:
        if operator.opcode == "CONCATENATION" and operator.outputs[0] in ranges:
            for tensor in operator.inputs:
                if tensor in graph.floats and tensor not in graph.constants:
                    ranges.setdefault(tensor, ranges[operator.outputs[0]])


def _add_selected(graph, ranges):
    """Where a mask chooses between tokens and a constant, such as zeros, tokens and choice have one range.

    Inputs stay as they are, see `_add_images`.
    """
    for operator in graph.operators:
        tokens = [tensor for tensor in operator.inputs[1:] if tensor not in graph.constants]
        if operator.opcode == "SELECT_V2" and len(tokens) == 1 and not _is_input(graph, tokens[0]):
            for one, other in ((tokens[0], operator.outputs[0]), (operator.outputs[0], tokens[0])):
                if one in ranges:
                    low, high = ranges[one]
                    ranges.setdefault(other, (min(low, 0.0), max(high, 0.0)))


def _add_constants(content, graph, model, ranges):
    """What is the same for all inputs has the range of its values."""
    unknown = {tensor for operator in graph.operators for tensor in operator.outputs} - set(ranges)
    if unknown:
        one, two = (values_of_tensors(content, graph, dummy_inputs(model, seed=seed)) for seed in (0, 1))
        for tensor in unknown & set(one):
            if np.array_equal(one[tensor], two[tensor]):
                ranges[tensor] = range_with_zero(one[tensor])


def pixel_inputs(model: keras.Model) -> set[str]:
    """Names of a `MultimodalViT`'s inputs that are pixels."""
    return {name for name, modality in model.modalities.items() if isinstance(modality, Pixels)}


def range_with_zero(values: np.ndarray) -> tuple[float, float]:
    """The extremes of a tensor, and 0."""
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)
