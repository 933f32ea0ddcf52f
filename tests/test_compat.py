"""The private names of other libraries that this package uses: where they stand, and whether they exist.

A test that fails here after an upgrade says which name is gone, and which function of `_compat.py` to mend.
"""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers

from keras_vit import _compat
from keras_vit.export import _compat as export_compat

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    file
    for folder in ("keras_vit", "export", "mobile_demo")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if "node_modules" not in file.parts and file.name != "_compat.py"
]
DOCUMENTED = {"_replace", "_asdict", "_exit"}  # of named tuples and of os
OF_MEDIAPIPE = "mediapipe.tasks.python"  # its public path


def foreign_names(tree, own):
    """[(line, name)] of private attributes that this package does not define, and of private modules."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            if node.attr not in own | DOCUMENTED:
                names.append((node.lineno, node.attr))
        elif isinstance(node, ast.Attribute) and node.attr == "__internal__":
            names.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            base = getattr(node, "module", None) or ""
            for name in [f"{base}.{alias.name}".strip(".") for alias in node.names]:
                private = re.search(r"(^|\.)(src|python|_internal)(\.|$)|\._(?!_|compat)", name)
                if private and not name.startswith(("keras_vit", OF_MEDIAPIPE)):
                    names.append((node.lineno, name))
    return names


def defined_names(trees):
    """What the package calls by a private name itself: functions, and attributes that it sets."""
    own = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {target.id for target in targets if isinstance(target, ast.Name)}
    return own


def test_private_names_stand_in_compat_alone():
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    own = defined_names(trees.values())
    # No method of ours may hide a private one of Keras, or the search above would take it for ours.
    keras_own = {
        name for base in (keras.Model, keras.optimizers.AdamW, keras.losses.Loss) for name in dir(base)
    }
    found = [
        (file.name, *name) for file, tree in trees.items() for name in foreign_names(tree, own - keras_own)
    ]
    assert found == [] and len(FILES) > 200


@pytest.mark.parametrize(
    "source",
    [
        "layer._flatten_layers()",
        "self._tracker.unlock()",
        "from keras.src.backend import trainer",
        "import tensorflow.python.framework.ops",
        "from tensorflow.python.framework import ops",
        "from numpy import _core",
        "tf.__internal__.distribute",
    ],
)
def test_the_search_finds_them(source):
    assert foreign_names(ast.parse(source), {"_kept"}), source
    assert not foreign_names(ast.parse("self._kept, os._exit, x.__dict__, a_b._replace"), {"_kept"})


@pytest.fixture
def model():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a")], name="inner")
    return keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1, name="b")], name="outer")


def test_layers_of_a_model(model):
    names = [layer.name for layer in _compat.flatten_layers(model, include_self=False)]
    assert {"inner", "a", "b"} <= set(names)
    assert "a" not in [layer.name for layer in _compat.flatten_layers(model, recursive=False)]
    assert _compat.flatten_layers(model)[0] is model


def test_a_built_layer_takes_further_layers():
    class Outer(keras.layers.Layer):
        def build(self, shape):
            self.built = True

    layer = Outer()
    layer.build((1, 2))
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.late = keras.layers.Dense(1)
    _compat.allow_more_layers(layer)
    layer.late = keras.layers.Dense(1)
    layer.late.build((1, 2))
    assert len(layer.weights) == 2


def test_what_an_optimizer_holds(model):
    optimizer = keras.optimizers.AdamW(0.1, use_ema=True)
    optimizer.build(model.trainable_variables)
    variable = model.trainable_variables[2]
    assert _compat.variable_index(optimizer, variable) == 2
    assert _compat.trained_variables(optimizer)[2] is variable
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    first, second = _compat.moments(optimizer, variable)
    np.testing.assert_allclose(first, 0.1 * np.ones(variable.shape), rtol=1e-5)  # 1 - beta_1
    np.testing.assert_allclose(second, 0.001 * np.ones(variable.shape), rtol=1e-4)
    assert [v.shape for v in _compat.moving_averages(optimizer)] == [
        v.shape for v in model.trainable_variables
    ]


def test_the_hooks_of_an_optimizer_are_called(model):
    called = []

    class Counting(_compat.HookedAdamW):
        def update_averages(self, variables):
            called.append("averages")
            super().update_averages(variables)

        def clip(self, gradients):
            called.append("clip")
            return super().clip(gradients)

        def sum_over_replicas(self, pairs):
            called.append("sum")
            return super().sum_over_replicas(pairs)

        def decay(self, variables):
            called.append("decay")
            super().decay(variables)

    optimizer, usual = (
        maker(0.1, use_ema=True, weight_decay=0.1, global_clipnorm=0.5)
        for maker in (Counting, keras.optimizers.AdamW)
    )
    start = model.get_weights()
    ended = []
    for each in (optimizer, usual):
        model.set_weights(start)
        model.compile(each, "mse")
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 1)))
        ended.append(model.get_weights())
    assert set(called) == {"averages", "clip", "sum", "decay"}
    for a, b in zip(*ended, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_update_on_all_replicas_runs_once(model):
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.build(model.trainable_variables)
    seen = []
    _compat.update_on_all_replicas(optimizer, lambda strategy, number: seen.append(number), 7)
    assert seen == [7]


def test_a_frozen_function_has_no_variables():
    variable = tf.Variable(3.0)
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec([], tf.float32))
    frozen = export_compat.frozen(function)
    variable.assign(5.0)
    (answer,) = frozen(tf.constant(2.0))
    assert float(answer) == 6.0 and not frozen.variables


def test_bytes_that_are_no_text_in_a_flexbuffer():
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Key("a")
        export_compat.write_bytes_as_string(builder, b"\xff\xfe")
    content = bytes(builder.Finish())
    value = flexbuffers.GetRoot(content).AsMap["a"]
    assert value.IsString and b"\xff\xfe\0" in content


def test_the_quantizers_of_tfmot():
    import keras_cv  # noqa: F401  (it chooses its Keras when imported)

    quantizers = export_compat.tfmot_quantizers()
    assert {"LastValueQuantizer", "MovingAverageQuantizer", "FixedQuantizer", "Quantizer"} <= set(
        dir(quantizers)
    )


def test_the_operators_of_a_graph():
    from ai_edge_litert.interpreter import Interpreter

    file = ROOT / "mobile_demo" / "cifar10" / "export" / "float32.tflite"
    interpreter = Interpreter(str(file))
    details = export_compat.operator_details(interpreter)
    assert {"FULLY_CONNECTED", "SOFTMAX"} <= {detail["op_name"] for detail in details}
    assert all({"index", "inputs", "outputs"} <= set(detail) for detail in details)
