"""Which operators of a file are int8 and which stay float: exactly these, for each profile."""

import collections
import dataclasses
import functools
import json
from pathlib import Path

import pytest
from ai_edge_litert.tools import flatbuffer_utils
from random_weights import randomize
from small_models import several, vit

from keras_vit.export import quantize_aware
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.profiles import PROFILES
from keras_vit.export.tflite import recipe as module
from keras_vit.export.tflite.convert import quantized_file, tapped_file
from keras_vit.export.tflite.pairing import pair
from keras_vit.export.tflite.recipe import FLOAT_IN_FULL, Rule, recipe, with_scores

# {model: {profile: {opcode, with the type of its weights: {type of its output: how many}}}}
OPERATORS = json.loads((Path(__file__).parent / "operators.json").read_text())
QUANTIZED = [name for name, profile in PROFILES.items() if profile.quantized]


MODELS = {
    "cls": vit,
    "mean": functools.partial(vit, pooling="mean", registers=2, position="sincos2d"),
    "several": several,
}


@functools.cache
def quantized(name, profile):
    """(folded model with rounded kernels, ranges, spec)."""
    model = randomize(MODELS[name]())
    inputs = dummy_inputs(model, 8)
    aware = quantize_aware(model, profile, inputs if "present" in inputs else inputs["image"])
    return *aware.deploy(), aware.spec


def operators_of(content):
    """{opcode: {type of its output: how many}}; a product is told apart by the type of its weights."""
    file = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = file.subgraphs[0]
    found = collections.defaultdict(collections.Counter)
    for operator in graph.operators:
        opcode = flatbuffer_utils.opcode_to_name(file, operator.opcodeIndex)
        types = [flatbuffer_utils.type_to_name(graph.tensors[i].type) for i in operator.inputs if i >= 0]
        output = flatbuffer_utils.type_to_name(graph.tensors[operator.outputs[0]].type)
        weights = f" of {types[1]}" if opcode in ("FULLY_CONNECTED", "CONV_2D") else ""
        found[opcode + weights][output] += 1
    return {opcode: dict(sorted(counts.items())) for opcode, counts in sorted(found.items())}


@pytest.mark.parametrize("profile", QUANTIZED)
@pytest.mark.parametrize("name", MODELS)
def test_these_operators_are_int8_and_these_are_float(name, profile):
    plain, ranges, spec = quantized(name, profile)
    full = PROFILES[profile].activations == "full"
    assert operators_of(quantized_file(plain, ranges, spec, full)) == OPERATORS[name][profile]


@pytest.fixture(scope="module")
def static():
    """(arguments of `recipe`, its rules, its calibration) of int8_static."""
    plain, ranges, spec = quantized("cls", "int8_static")
    content, graph, pairs = pair(plain, tapped_file, with_scores(ranges))
    arguments = {"content": content, "graph": graph, "pairs": pairs, "model": plain}
    arguments |= {"ranges": with_scores(ranges), "spec": spec}
    return arguments, *recipe(**arguments)


def test_every_tensor_gets_the_range_of_its_role(static):
    arguments, _, calibration = static
    graph, pairs, ranges = (arguments[key] for key in ("graph", "pairs", "ranges"))
    assert sum(len(roles) for roles in pairs.roles.values()) == len(ranges) > 25
    for tensor, roles in pairs.roles.items():
        entry = calibration[graph.names[tensor]]
        assert (entry["min"].item(), entry["max"].item()) == pytest.approx(ranges[roles[0]]), roles
    # Two that are exchanged are seen.
    one, other = "block_0.attention.query.output", "block_1.attention.query.output"
    changed = {**ranges, one: ranges[other], other: ranges[one]}
    assert abs(ranges[one][1] - ranges[other][1]) > 1e-3
    exchanged = recipe(**{**arguments, "ranges": changed})[1]
    differ = {name for name in calibration if exchanged[name] != calibration[name]}
    assert (
        differ and {graph.names[t] for t, roles in pairs.roles.items() if roles[0] in (one, other)} <= differ
    )


def test_a_quantized_layer_without_a_range_is_an_error_and_not_float(static):
    arguments, _, _ = static
    pairs = arguments["pairs"]
    kept = {
        tensor: roles for tensor, roles in pairs.roles.items() if "block_1.mlp.contract.output" not in roles
    }
    assert len(kept) == len(pairs.roles) - 1
    with pytest.raises(RuntimeError, match=r"no range is known for FULLY_CONNECTED .*\(1 in all\)"):
        recipe(**{**arguments, "pairs": dataclasses.replace(pairs, roles=kept)})
    layers = {index: name for index, name in pairs.layers.items() if name != "block_0.mlp.expand"}
    with pytest.raises(RuntimeError, match=r"no operator of the file holds the kernel of block_0.mlp.expand"):
        recipe(**{**arguments, "pairs": dataclasses.replace(pairs, layers=layers)})


def test_a_protected_layer_stays_float(static):
    arguments, rules, _ = static
    spec = {role: value for role, value in arguments["spec"].items() if not role.startswith("block_0.mlp.")}
    fewer = recipe(**{**arguments, "spec": spec})[0]
    assert [rule.opcode for rule in rules if rule not in fewer].count("FULLY_CONNECTED") == 2


def test_the_bits_and_blocks_are_those_of_the_spec(static):
    arguments, _, _ = static
    for scheme, bits, block in (("weight", 8, 0), ("weight4", 4, 0), ("weight4_block", 4, 32)):
        layers = arguments["pairs"].layers.values()
        spec = {f"{layer}.input": "token" for layer in layers} | {
            f"{layer}.kernel": scheme for layer in layers
        }
        rules = recipe(**{**arguments, "spec": spec})[0]
        dynamic = [rule for rule in rules if not rule.static]
        assert len(dynamic) == 14 == sum(rule.opcode == "FULLY_CONNECTED" for rule in rules)
        assert {(rule.bits, rule.block) for rule in dynamic} == {(bits, block)}
        assert all(isinstance(rule, Rule) for rule in rules)


def test_what_may_stay_float_in_int8_full_is_a_list(monkeypatch):
    """Of a multimodal model; what is not on it, is an error."""
    plain, ranges, spec = quantized("several", "int8_full")
    content, graph, pairs = pair(plain, tapped_file, with_scores(ranges))
    arguments = content, graph, pairs, plain, with_scores(ranges), spec, True
    rules, _ = recipe(*arguments)
    patterns = {rule.pattern for rule in rules}
    floats = {
        operator.opcode
        for operator in graph.operators
        if operator.outputs[0] in graph.floats and module._only(graph, operator) not in patterns
    }
    assert (
        floats
        == {"BATCH_MATMUL", "CAST", "GATHER", "MUL", "RESHAPE", "STRIDED_SLICE", "SUB"}
        <= FLOAT_IN_FULL
    )
    assert not FLOAT_IN_FULL & {"SOFTMAX", "GELU", "MEAN", "RSQRT", "TRANSPOSE", "LOGISTIC"}
    monkeypatch.setattr(module, "FLOAT_IN_FULL", FLOAT_IN_FULL - {"SUB"})
    with pytest.raises(RuntimeError, match=r"no range is known for SUB .* \(2 in all\)"):
        recipe(*arguments)
