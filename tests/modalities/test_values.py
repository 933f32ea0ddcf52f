"""Checks of inputs see values where there are any, and pass while a graph is traced."""

import keras
import numpy as np
import pytest

from keras_vit.modalities import values
from keras_vit.modalities.values import concrete_values


def test_a_tensor_has_values_and_a_traced_one_has_none():
    x = np.arange(6, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(concrete_values(x), x)
    np.testing.assert_array_equal(concrete_values(keras.ops.convert_to_tensor(x)), x)
    assert concrete_values(keras.KerasTensor((2, 3))) is None
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            seen.append(concrete_values(x))
            return x

    Spy()(keras.KerasTensor((2, 3)))
    assert seen
    if keras.backend.backend() != "numpy":  # which runs the layer on real arrays
        assert all(found is None for found in seen)


def test_a_fault_is_no_traced_graph(monkeypatch):
    def fail(x):
        raise OSError("a fault")

    monkeypatch.setattr(values.ops, "convert_to_numpy", fail)
    with pytest.raises(OSError, match="a fault"):
        concrete_values(np.zeros(3))
