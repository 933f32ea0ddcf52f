"""`Graph`: what a .tflite file computes, as plain Python objects."""

import dataclasses
from typing import Any

import numpy as np

MOVES = ("RESHAPE", "TRANSPOSE")  # operators that move numbers and leave the values as they are


@dataclasses.dataclass
class Operator:
    """One operator of a graph.

    Attributes:
        opcode: its name, e.g. "FULLY_CONNECTED".
        inputs, outputs: indices of tensors; inputs that are left out are not among them.
    """

    opcode: str
    inputs: list[int]
    outputs: list[int]


@dataclasses.dataclass
class Graph:
    """The main graph of a .tflite file.

    Attributes:
        operators: in the order in which they run.
        names, shapes: of each tensor.
        floats: indices of the float32 tensors.
        constants: {index of a float32 tensor that is constant: its value}.
    """

    operators: list[Operator]
    names: list[str]
    shapes: list[tuple[int, ...]]
    floats: set[int]
    constants: dict[int, np.ndarray]


def opcodes_of(file: Any) -> list[str]:
    """The names that the operators of a parsed .tflite refer to by `opcodeIndex`."""
    from ai_edge_litert.tools import flatbuffer_utils

    return [flatbuffer_utils.opcode_to_name(file, i) for i in range(len(file.operatorCodes))]


def read_graph(content: bytes) -> Graph:
    """The graph in the bytes of a .tflite file."""
    from ai_edge_litert.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph, opcodes = file.subgraphs[0], opcodes_of(file)
    operators = [
        Operator(opcodes[op.opcodeIndex], [t for t in op.inputs if t >= 0], list(op.outputs))
        for op in graph.operators
    ]
    names = [tensor.name.decode() for tensor in graph.tensors]
    shapes = [tuple(tensor.shape if tensor.shape is not None else ()) for tensor in graph.tensors]
    float32 = flatbuffer_utils.TensorType.FLOAT32
    floats = {index for index, tensor in enumerate(graph.tensors) if tensor.type == float32}
    constants = {}
    for index in floats:
        data = file.buffers[graph.tensors[index].buffer].data
        if data is not None and len(data):
            constants[index] = np.frombuffer(bytes(data), "float32").reshape(shapes[index])
    return Graph(operators, names, shapes, floats, constants)


def values_of_tensors(content: bytes, graph: Graph, inputs: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """{index of a float32 tensor: its values when the file sees the raw `inputs`}."""
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
    # Kernels have temporary tensors besides.
    tensors = {tensor for operator in graph.operators for tensor in (*operator.inputs, *operator.outputs)}
    return {index: interpreter.get_tensor(index).copy() for index in sorted(tensors & graph.floats)}
