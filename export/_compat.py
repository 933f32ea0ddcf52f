"""Private names of LiteRT, TensorFlow's converter, flatbuffers and tensorflow-model-optimization.

As `keras_vit/_compat.py`: each with the version it was seen in, and tests/test_compat.py says which is gone.
"""

from typing import Any


def operator_details(interpreter: Any) -> list[dict]:
    """The operators of a graph, also which a delegate runs; there is no other way from Python.

    ai-edge-litert 2.3: `Interpreter._get_ops_details`.
    """
    return interpreter._get_ops_details()


def frozen(function: Any) -> Any:
    """A concrete function with its variables as constants.

    TensorFlow 2.21: `tensorflow.python.framework.convert_to_constants`.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def write_bytes_as_string(builder: Any, content: bytes) -> None:
    """Add bytes, which need be no UTF-8, to a flexbuffer as a string (flatbuffers 25: `_WriteBlob`)."""
    from flatbuffers import flexbuffers

    builder._WriteBlob(content, append_zero=True, type_=flexbuffers.Type.STRING)


def tfmot_quantizers() -> Any:
    """The module of quantizers (tensorflow-model-optimization 0.8: it has no public path of its own)."""
    from tensorflow_model_optimization.python.core.quantization.keras import quantizers

    return quantizers
