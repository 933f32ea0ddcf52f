"""A .tflite that was traced for one example, for any number of them at once.

    interpreter.resize_tensor_input(index, [4, height, width, 3])

The converter writes the batch into its files as a 1, in the shapes that its operators RESHAPE ask for. Here
that becomes -1, "as many as there are". The declared shapes stay those of one example, and so do answers and
the number of operators: a file that is traced with an unknown batch has operators SHAPE and PACK in it, which
LiteRT.js and delegates refuse.
"""

import numpy as np

from keras_vit.export.tflite.graph import opcodes_of

ALONG = ("QUANTIZE", "DEQUANTIZE", "FULLY_CONNECTED", "GELU", "RELU")  # keep the rows of their first input
BINARY = ("ADD", "SUB", "MUL", "DIV")
ROWS = 2  # of the batch that a file is tried with


def resizable(content):
    """(bytes of the .tflite `content`, whether the batch of its inputs can be resized).

    The same bytes come back where that cannot be: where the converter joined constants to the tokens of one
    example, as registers are.
    """
    from keras_vit.export.tflite.metadata import packed, parsed

    graph = _Graph(parsed(content))
    for op in list(graph.operators):
        kind, batched = graph.kind(op), len(op.inputs) and not graph.is_constant(op.inputs[0])
        if kind == "RESHAPE" and batched:
            graph.shapes[id(op)] = [-1, *graph.shape(op.outputs[0])[1:]]
            _keep_rows(graph, op)
        elif kind == "STRIDED_SLICE" and batched:
            op.builtinOptions.beginMask |= 1
            op.builtinOptions.endMask |= 1
        elif kind == "CONCATENATION" and any(graph.value(t) is not None for t in op.inputs):
            _pad_instead(graph, op)  # what else is joined to constants, the trial below finds
    graph.write_shapes()
    graph.drop_unused()
    result = packed(graph.file)
    return (result, True) if _answers_each_alike(result) else (content, False)


def can_resize(path):
    """Whether LiteRT takes a batch other than that of the .tflite file at `path`."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        _resized(Interpreter(str(path)), ROWS)
    except (RuntimeError, ValueError):
        return False
    return True


class _Graph:
    """What the rewrites ask of a parsed file's only graph."""

    def __init__(self, file):
        from ai_edge_litert.tools import flatbuffer_utils

        graph = file.subgraphs[0]
        self.file, self.tensors, self.operators = file, graph.tensors, graph.operators
        self.codes = opcodes_of(file)
        self.types = flatbuffer_utils.TensorType
        self.takers, self.makers, self.shapes = {}, {}, {}
        for op in graph.operators:
            for t in op.inputs:
                self.takers.setdefault(t, []).append(op)
            for t in op.outputs:
                self.makers[t] = op

    def kind(self, op):
        return self.codes[op.opcodeIndex]

    def shape(self, tensor):
        shape = self.tensors[tensor].shape
        return [] if shape is None else [int(size) for size in shape]

    def is_constant(self, tensor):
        data = self.file.buffers[self.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def value(self, tensor):
        """The array of a float constant, also of one that is stored as float16; None for any other tensor."""
        maker = self.makers.get(tensor)
        if maker is not None and self.kind(maker) == "DEQUANTIZE" and self.is_constant(maker.inputs[0]):
            tensor = maker.inputs[0]
        kinds = {self.types.FLOAT32: "float32", self.types.FLOAT16: "float16"}
        dtype = kinds.get(self.tensors[tensor].type)
        if dtype is None or not self.is_constant(tensor):
            return None
        data = bytes(self.file.buffers[self.tensors[tensor].buffer].data)
        return np.frombuffer(data, dtype).reshape(self.shape(tensor)).astype("float32")

    def constant(self, array, name):
        """The index of a new tensor that holds `array`, float32 or int32."""
        from ai_edge_litert import schema_py_generated as schema

        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), np.array(array.shape, "int32")
        tensor.type = self.types.INT32 if array.dtype == "int32" else self.types.FLOAT32
        tensor.buffer = self._buffer(array)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _buffer(self, array):
        from ai_edge_litert import schema_py_generated as schema

        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), "uint8")
        self.file.buffers.append(buffer)
        return len(self.file.buffers) - 1

    def write_shapes(self):
        """Give each RESHAPE its new shape; those that ask for the same go on sharing one constant."""
        made = {}
        for op in self.operators:
            shape = self.shapes.get(id(op))
            if shape is not None:
                if tuple(shape) not in made:
                    made[tuple(shape)] = self.constant(np.array(shape, "int32"), f"shape/{len(made)}")
                op.inputs = [op.inputs[0], made[tuple(shape)]]
                if op.builtinOptions is not None:
                    op.builtinOptions.newShape = shape

    def drop_unused(self):
        """Take out the constants that nothing needs any more, and what made them float32."""
        used = {t for op in self.operators for t in op.inputs} | set(self.file.subgraphs[0].outputs)
        for op in [op for op in self.operators if self.kind(op) == "DEQUANTIZE"]:
            if op.outputs[0] not in used:
                self.operators.remove(op)
                used -= set(op.inputs)
        used |= {t for op in self.operators for t in (*op.inputs, *op.outputs)}
        needed = {tensor.buffer for t, tensor in enumerate(self.tensors) if t in used}
        for t, tensor in enumerate(self.tensors):
            if t not in used and self.is_constant(t) and tensor.buffer not in needed:
                self.file.buffers[tensor.buffer].data = None


def _keep_rows(graph, op):
    """Where a product of [rows, width] is then added to something [1, rows, width], keep that first axis."""
    rows, tensor, along = graph.shape(op.outputs[0]), op.outputs[0], []
    if len(rows) != 2 or graph.shape(op.inputs[0])[0] != 1:
        return
    while True:
        takers = graph.takers.get(tensor, [])
        if len(takers) != 1 or tensor not in takers[0].inputs[:1]:
            break
        if graph.kind(takers[0]) not in ALONG:
            break
        along.append(takers[0])
        tensor = takers[0].outputs[0]
    takers = graph.takers.get(tensor, [])
    wider = [t for taker in takers for t in taker.inputs if len(graph.shape(t)) > 2]
    if not wider or any(graph.kind(taker) not in BINARY for taker in takers):
        return
    graph.shapes[id(op)] = [-1, *rows]
    for made_by in (op, *along):
        result = graph.tensors[made_by.outputs[0]]
        result.shape = np.array([1, *graph.shape(made_by.outputs[0])], "int32")
        if graph.kind(made_by) == "FULLY_CONNECTED":
            made_by.builtinOptions.keepNumDims = True


def _pad_instead(graph, op):
    """Make [constant, tokens] + constant of (tokens, padded with zeros) + another constant: exact, in float.

    That is how [CLS] and positions come to the patches. What is not of that kind stays as it is.
    """
    from ai_edge_litert import schema_py_generated as schema

    takers = graph.takers.get(op.outputs[0], [])
    first = graph.value(op.inputs[0])
    if len(op.inputs) != 2 or first is None or first.ndim != 3 or op.builtinOptions.axis not in (1, -2):
        return
    if graph.value(op.inputs[1]) is not None or len(takers) != 1 or graph.kind(takers[0]) != "ADD":
        return
    add = takers[0]
    [other] = [i for i, t in enumerate(add.inputs) if t != op.outputs[0]] or [None]
    table = None if other is None else graph.value(add.inputs[other])
    if table is None or table.shape != tuple(graph.shape(op.outputs[0])):
        return
    table[:, : first.shape[1]] += first
    name = graph.tensors[add.outputs[0]].name.decode()
    add.inputs = list(add.inputs)
    add.inputs[other] = graph.constant(table, f"{name}/table")
    if "PAD" not in graph.codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.PAD
        code.version = 1
        graph.file.operatorCodes.append(code)
        graph.codes.append("PAD")
    op.opcodeIndex = graph.codes.index("PAD")
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.PadOptions, schema.PadOptionsT()
    paddings = np.array([[0, 0], [first.shape[1], 0], [0, 0]], "int32")
    op.inputs = [op.inputs[1], graph.constant(paddings, f"{name}/paddings")]


def _resized(interpreter, rows):
    """{name: place of the input} of an `Interpreter` that takes `rows` examples at once from here on."""
    for place in interpreter.get_input_details():
        interpreter.resize_tensor_input(place["index"], [rows, *place["shape"][1:]])
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner("serving_default").get_input_details()


def _answers_each_alike(content):
    """Whether a batch of `ROWS` random examples gets the answers that each of them gets alone."""
    from ai_edge_litert.interpreter import Interpreter

    def answers(rows):
        interpreter = Interpreter(model_content=content)
        places = _resized(interpreter, len(rows))
        for name, place in places.items():
            size = [len(rows), *place["shape"][1:]]
            whole = np.random.default_rng(0).integers(0, 2, [ROWS, *size[1:]])
            scale = 255 if name == "image" else 1
            interpreter.set_tensor(place["index"], (whole[rows] * scale).astype(place["dtype"]))
        interpreter.invoke()
        outputs = interpreter.get_signature_runner("serving_default").get_output_details()
        return {name: interpreter.get_tensor(place["index"]) for name, place in outputs.items()}

    try:
        together = answers([0, 1])
        alone = [answers([row]) for row in range(ROWS)]
    except (RuntimeError, ValueError):
        return False
    return all(
        np.allclose(together[name], np.concatenate([one[name] for one in alone]), atol=1e-5, rtol=1e-3)
        for name in together
        if together[name].dtype == np.float32
    ) and all(len(answer) == ROWS for answer in together.values())
