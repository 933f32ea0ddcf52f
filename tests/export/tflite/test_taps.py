"""The file itself says which tensor plays which role; without its taps it is as if it never had them."""

import numpy as np
import pytest
from random_weights import randomize
from small_models import several, vit

from keras_vit import ViT
from keras_vit.export import fold, quantize_aware
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.tflite.convert import converted, float_file, tapped_file, write_graph
from keras_vit.export.tflite.fold import from_raw
from keras_vit.export.tflite.graph import read_graph, values_of_tensors
from keras_vit.export.tflite.metadata import packed, parsed
from keras_vit.export.tflite.taps import record, without_taps

# What could hide a tensor: fused activations, padding, merged tokens, constant queries, masks.
PLAIN = {
    "cls": lambda: vit(),
    "compact": lambda: vit(stem="compact", attention="relu", pooling="mean", mlp="swiglu"),
    "attention": lambda: vit(pooling="attention", merge=(1, 4), position="relative", registers=2),
    "several": several,
}


def static(name):
    """(folded model, ranges) of int8_static."""
    model = randomize(PLAIN[name]())
    inputs = dummy_inputs(model, 8)
    return quantize_aware(model, "int8_static", inputs if "present" in inputs else inputs["image"]).deploy()


@pytest.mark.parametrize("name", PLAIN)
def test_every_role_is_found_and_the_graph_is_as_without_taps(name):
    plain, ranges = static(name)
    content, tensor_of = tapped_file(plain, list(ranges))
    graph, untapped = read_graph(content), read_graph(float_file(plain))
    assert set(tensor_of) == set(ranges) and len(ranges) >= 20

    def opcodes(graph):
        return sorted((op.opcode, len(op.inputs)) for op in graph.operators)

    assert opcodes(graph) == opcodes(untapped)
    assert len(parsed(content).subgraphs[0].outputs) == 1
    assert not [name for name in graph.names if "tap_" in name]
    # By values: what the layers see is what the tensors hold.
    inputs = dummy_inputs(plain, 1, seed=3)
    with record(plain, ranges) as seen:
        plain(from_raw(inputs, plain))
    values = values_of_tensors(content, graph, inputs)
    for role, tensor in tensor_of.items():
        expected = np.sort(np.asarray(seen[role]), axis=None)
        found = np.sort(values[tensor], axis=None)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=role)


def test_a_tapped_file_answers_as_an_untapped_one():
    plain, ranges = static("cls")
    content, _ = tapped_file(plain, list(ranges))
    graphs = content, float_file(plain)
    answers = []
    for one in graphs:
        graph = read_graph(one)
        (last,) = parsed(one).subgraphs[0].outputs
        answers.append(values_of_tensors(one, graph, dummy_inputs(plain, 1, seed=3))[last])
    np.testing.assert_array_equal(*answers)
    assert len(content) < 1.02 * len(graphs[1]), "no tensor or buffer of a tap is left"


def test_a_role_whose_tap_is_gone_is_named(tmp_path):
    plain = fold(vit())
    roles = write_graph(plain, tmp_path, taps=["block_0.attention.query.output", "block_1.mlp.expand.output"])
    assert roles == ["block_0.attention.query.output", "block_1.mlp.expand.output"]
    file = parsed(converted(tmp_path))
    signature = file.signatureDefs[0]
    signature.outputs = [output for output in signature.outputs if output.name != b"tap_1"]
    with pytest.raises(
        RuntimeError, match=r"no tensor of the file holds block_1.mlp.expand.output \(1 in all\)"
    ):
        without_taps(packed(file), roles)


def test_what_no_input_changes_has_no_tensor():
    """The queries of attention pooling are learned: the converter computes them."""
    plain = fold(randomize(vit(pooling="attention")))
    roles = ["pool.attention.query.output", "pool.attention.key.output"]
    _, tensor_of = tapped_file(plain, roles)
    assert tensor_of[roles[0]] is None and tensor_of[roles[1]] is not None


def test_the_hooks_are_the_models_own_again():
    plain = fold(ViT("Nano/4", image_size=8, num_classes=2, depth=1))
    before = [layer.fake_quantize for layer in (plain, plain.head, plain.blocks[0].mlp.expand)]
    with pytest.raises(ZeroDivisionError), record(plain, ["head.input"]):
        raise ZeroDivisionError
    assert [layer.fake_quantize for layer in (plain, plain.head, plain.blocks[0].mlp.expand)] == before
