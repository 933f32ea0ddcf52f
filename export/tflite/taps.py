"""Taps: outputs of a float .tflite that say which of its tensors plays which role in the model.

`record` notes the tensors that the layers hand to `fake_quantize` while a model is traced. `write_graph`
makes each of them an output of the graph, called "tap_0", "tap_1", ... The converter renames, moves and fuses
at will, but must keep track of its outputs: so the file itself says where each of them is. `without_taps`
reads that, and takes these outputs out of the file, with the operators and tensors that nothing else needs.
"""

import contextlib
import functools
from collections.abc import Collection, Iterator
from typing import Any

import keras

from keras_vit.export.quantization.spec import quantizable_layers
from keras_vit.export.tflite.graph import MOVES, opcodes_of

PREFIX = "tap_"


@contextlib.contextmanager
def record(model: keras.Model, roles: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield {role: tensor} of what `model` computes while it lasts, e.g. "block_0.attention.query.output".

    Args:
        model: a folded model.
        roles: the roles to note; others are left out.
    """
    tensors: dict[str, Any] = {}

    def note(name, role, tensor):
        if f"{name}.{role}" in roles:
            tensors[f"{name}.{role}"] = tensor
        return tensor

    layers = list(quantizable_layers(model))
    before = [layer.fake_quantize for _, layer in layers]
    try:
        for name, layer in layers:
            layer.fake_quantize = functools.partial(note, name)
        yield tensors
    finally:
        for (_, layer), function in zip(layers, before, strict=True):
            layer.fake_quantize = function


def without_taps(content: bytes, roles: list[str]) -> tuple[bytes, dict[str, int | None]]:
    """(a .tflite without its taps, {role: index of its tensor}).

    Args:
        content: a .tflite whose outputs "tap_0", "tap_1", ... are the tensors of `roles`.

    Returns:
        The index is None where the file has a constant: the converter computes what no input changes.

    Raises:
        RuntimeError: a tap that the file does not have, or whose tensor nothing else in the file needs.
    """
    from keras_vit.export.tflite.metadata import packed, parsed

    file = parsed(content)
    graph, signature = file.subgraphs[0], file.signatureDefs[0]
    tensor_of = {output.name.decode(): output.tensorIndex for output in signature.outputs}
    lost = [role for i, role in enumerate(roles) if f"{PREFIX}{i}" not in tensor_of]
    if lost:
        raise RuntimeError(f"no tensor of the file holds {', '.join(lost[:5])} ({len(lost)} in all).")
    signature.outputs = [o for o in signature.outputs if not o.name.decode().startswith(PREFIX)]
    graph.outputs = [output.tensorIndex for output in signature.outputs]

    opcodes = opcodes_of(file)
    needed, kept = set(graph.outputs), []
    made_by = {}
    for operator in reversed(graph.operators):
        made_by.update(dict.fromkeys(operator.outputs, operator))
        if needed & set(operator.outputs):
            needed |= {tensor for tensor in operator.inputs if tensor >= 0}
            kept.append(operator)
    graph.operators = kept[::-1]

    places: dict[str, int | None] = {}
    for i, role in enumerate(roles):
        tensor = tensor_of[f"{PREFIX}{i}"]
        # A copy in another shape, made for this output alone.
        while tensor not in needed and tensor in made_by and opcodes[made_by[tensor].opcodeIndex] in MOVES:
            tensor = made_by[tensor].inputs[0]
        is_constant = tensor not in made_by and tensor not in graph.inputs
        if not is_constant and tensor not in needed:
            raise RuntimeError(f"nothing in the file needs the tensor of {role}.")
        places[role] = None if is_constant else tensor
    numbers = _without_unused_tensors(graph)
    for entry in (*signature.inputs, *signature.outputs):
        entry.tensorIndex = numbers[entry.tensorIndex]
    _without_unused_buffers(file)
    return packed(file), {role: None if place is None else numbers[place] for role, place in places.items()}


def _without_unused_tensors(graph):
    """Take out the tensors that no operator has: {old index: new index}."""
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used |= {*operator.inputs, *operator.outputs, *(operator.intermediates or ())}
    used = sorted(used - {-1})
    numbers = {old: new for new, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in used]
    graph.inputs = [numbers[tensor] for tensor in graph.inputs]
    graph.outputs = [numbers[tensor] for tensor in graph.outputs]
    for operator in graph.operators:
        operator.inputs = [numbers[tensor] for tensor in operator.inputs]
        operator.outputs = [numbers[tensor] for tensor in operator.outputs]
    return numbers


def _without_unused_buffers(file):
    """Take out the buffers that no tensor has; the first one is empty, as the format asks for."""
    metadata = file.metadata or ()
    tensors = file.subgraphs[0].tensors
    used = sorted({0, *(tensor.buffer for tensor in tensors), *(entry.buffer for entry in metadata)})
    numbers = {old: new for new, old in enumerate(used)}
    file.buffers = [file.buffers[old] for old in used]
    for holder in (*tensors, *metadata):
        holder.buffer = numbers[holder.buffer]
