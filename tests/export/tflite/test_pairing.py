"""Models whose tensors are constant, or equal to others: the pairing of file and model must not mind."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from small_models import several, vit

from keras_vit.export import fold, quantize_aware
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.profiles import PROFILES
from keras_vit.export.tflite.convert import float_file, quantized_file, tapped_file
from keras_vit.export.tflite.graph import read_graph
from keras_vit.export.tflite.pairing import pair
from keras_vit.export.verification.runners import open_runner


def filled(model, *parts, value=0.0):
    for variable in model.weights:
        if any(part in variable.path for part in parts):
            variable.assign(np.full(variable.shape, value))
    return model


MODELS = {
    # The head of a new model is zeros.
    "fresh": vit,
    # Queries, keys and values have the same kernels; all scores, sums and answers are constant or equal.
    "zeros": lambda: filled(vit(layer_scale=0.1), "kernel", "table", "cls", "gamma"),
    # No pixel gets through the first ReLU, and nothing through that of the attention; a single class.
    "dead": lambda: filled(
        vit(stem="compact", attention="relu", pooling="mean").rebuilt(num_classes=1), "n_1/bias", value=-99.0
    ),
    "distilled": lambda: filled(vit(distilled=True), "mlp", "attention"),
    "several": several,
    "several zeros": lambda: filled(several(), "kernel", "table"),
}


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("zeros", "int8_full"),
        ("dead", "int8_static"),
        ("several zeros", "int8_full"),
        pytest.param("fresh", "int8_full", marks=pytest.mark.slow),
        pytest.param("dead", "int8_full", marks=pytest.mark.slow),
        pytest.param("zeros", "int8", marks=pytest.mark.slow),
        pytest.param("distilled", "int8_mixed", marks=pytest.mark.slow),
        pytest.param("several", "int8_static", marks=pytest.mark.slow),
        pytest.param("distilled", "int8_static", marks=pytest.mark.slow),
        pytest.param("zeros", "int4", marks=pytest.mark.slow),
    ],
)
def test_a_model_with_constant_tensors_becomes_a_file(name, profile, tmp_path):
    model = MODELS[name]()
    inputs = dummy_inputs(model, 16, seed=1)
    aware = quantize_aware(model, profile, inputs if "present" in inputs else inputs["image"])
    plain, ranges = aware.deploy()
    full = PROFILES[profile].activations == "full"
    (tmp_path / "model.tflite").write_bytes(quantized_file(plain, ranges, aware.spec, full))
    found = open_runner(tmp_path / "model.tflite").predict(dummy_inputs(model, 4, seed=2))
    # Zero logits, as a fresh head gives: every class is as likely, and a single one as likely as not.
    np.testing.assert_allclose(found, 1 / max(model.num_classes, 2), atol=1 / 200 if full else 1e-6)
    ops = read_graph((tmp_path / "model.tflite").read_bytes()).operators
    products = sum(op.opcode in ("FULLY_CONNECTED", "CONV_2D") for op in ops)
    assert products >= 6 * 2, "equal layers were not made one"


def test_the_pairs_do_not_depend_on_the_weights():
    """One graph, its kernels random or zeros: each tensor has the roles that it has."""
    zeros, other = fold(filled(vit(), "kernel")), fold(vit())
    other.head.kernel.assign(np.random.default_rng(0).normal(0, 0.3, other.head.kernel.shape))
    wanted = [
        f"block_{i}.{role}"
        for i in (0, 1)
        for role in ("sum_2", "attention.query.output", "attention.key.output", "mlp.contract.output")
    ]
    _, _, pairs = pair(zeros, tapped_file, [*wanted, "head.output"])
    content, _, pairs_of_other = pair(other, tapped_file, [*wanted, "head.output"])
    assert pairs == pairs_of_other
    assert {role for roles in pairs.roles.values() for role in roles} == {*wanted, "head.output"}
    assert len(pairs.layers) == 1 + 2 * 6 + 1
    # The real kernels are in the file: it answers like the model, here with TensorFlow's own softmax.
    images = dummy_inputs(other, 1, seed=3)
    answer = tf.nn.softmax(other(images["image"])).numpy()
    assert np.ptp(answer) > 0.05
    interpreter = Interpreter(model_content=content)
    np.testing.assert_allclose(interpreter.get_signature_runner()(**images)["probability"], answer, atol=1e-5)


def test_a_kernel_that_the_file_does_not_hold_as_it_is_stays_the_real_one():
    """As that of a layer of your own, which the converter multiplies by something."""
    plain = fold(vit(pooling="mean").rebuilt(depth=1))
    plain.head.kernel.assign(np.random.default_rng(0).normal(0, 0.3, plain.head.kernel.shape))
    kernel = np.array(plain.head.kernel)

    def doubled(model, roles):
        before = np.array(model.head.kernel)
        model.head.kernel.assign(2 * before)
        content = float_file(model)
        model.head.kernel.assign(before)
        return content, {}

    content, _, pairs = pair(plain, doubled)
    np.testing.assert_array_equal(np.array(plain.head.kernel), kernel)
    assert pairs.computed == {"head"} and len(pairs.layers) == 1 + 6
    constants = read_graph(content).constants
    assert any(c.shape == (3, 64) and np.allclose(c, 2 * kernel.T) for c in constants.values())
