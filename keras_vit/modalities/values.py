"""The numbers in a tensor, where there are any: for checks of inputs that run outside of traced graphs."""

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

# What a backend raises for a tensor of a traced graph (tensorflow 2.21, jax 0.10; torch by its manual).
SYMBOLIC = {"tensorflow": NotImplementedError, "jax": TypeError, "torch": RuntimeError}


def concrete_values(x: Any) -> np.ndarray | None:
    """`x` as a NumPy array; None while a graph is traced, where tensors have no values."""
    torch = sys.modules.get("torch")
    if isinstance(x, keras.KerasTensor) or (torch is not None and torch.compiler.is_compiling()):
        return None
    try:
        return np.asarray(ops.convert_to_numpy(x))
    except SYMBOLIC.get(keras.backend.backend(), ()):
        return None
