"""Every part of a ViT, every profile: the quantization-aware model against its file in the real LiteRT."""

import itertools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit import ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.export import load_runner, quantize_aware
from keras_vit.export.profiles import PROFILES
from keras_vit.export.quantization.fake_quant import FakeQuantizer
from keras_vit.export.quantization.spec import quantizable_layers, quantization_spec
from keras_vit.export.tflite.convert import float_file, quantized_file, tapped_file
from keras_vit.export.tflite.fold import fold, from_raw
from keras_vit.export.tflite.graph import read_graph
from keras_vit.export.tflite.pairing import pair
from keras_vit.export.tflite.taps import record
from keras_vit.export.verification.runners import open_runner

PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
SIZE = 16


def random_vit(**changes):
    """Weights of a size that keeps every part busy."""
    shape = {"patch_size": (4, 2), "width": 32, "depth": 2, "num_heads": 2, "mlp_width": 64}
    model = ViT(ViTConfig(**{**shape, **changes}), SIZE, num_classes=5, preprocessing=PREPROCESSING)
    random = np.random.default_rng(0)
    for variable in model.weights:
        inputs = np.prod(variable.shape[:-1])
        if variable.path.endswith("kernel"):
            variable.assign(random.normal(0, 1.2 / np.sqrt(inputs), variable.shape))
        else:
            middle = 1.0 if variable.path.endswith("scale") else 0.0
            variable.assign(random.normal(middle, 0.2, variable.shape))
    return model


def pictures(count, seed):
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + random.normal(0, 20, coarse.shape), 0, 255).round().astype("uint8")


def normalise(images):
    return ((images / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]).astype("float32")


def as_file(aware, path):
    """The runner of the quantized file of a `QuantizeAware` model, made in this process."""
    plain, ranges = aware.deploy()
    full = PROFILES[aware.profile].activations == "full"
    path.write_bytes(quantized_file(plain, ranges, aware.spec, full=full))
    return open_runner(path)


PARTS = {
    "convolutions": {"stem": "compact", "patch_size": 4, "position": "rotary2d", "pooling": "attention"},
    "overlapping": {"stem": "overlapping", "position": "relative", "mlp": "swiglu"},
    "phone": {"attention": "relu", "merge": (1, 8), "registers": 7, "pooling": "mean"},
    "normed": {"qk_norm": True, "distilled": True, "layer_scale": 0.5, "mlp": "gelu_tanh"},
    "chosen": {"attention": "hard", "top_k": 4, "position": "sincos2d", "patch_mask": True},
}
CASES = [(part, profile) for part in PARTS for profile in ("int8", "int8_mixed", "int8_static")]
CASES += [("normed", "int4"), ("overlapping", "int4_block")]
CASES += [("plain", "int8_full"), ("averaged", "int8_full")]
PARTS |= {
    "plain": {},
    "averaged": {"pooling": "mean", "attention": "relu", "registers": 3, "stem": "compact", "patch_size": 4},
}


@pytest.mark.parametrize(("part", "profile"), CASES)
def test_the_file_answers_as_the_keras_model(part, profile, tmp_path):
    aware = quantize_aware(random_vit(**PARTS[part]), profile, pictures(64, seed=1))
    runner = as_file(aware, tmp_path / "model.tflite")
    images = pictures(40, seed=2)
    expected = np.asarray(tf.nn.softmax(aware(normalise(images))))
    found = runner.predict(images)
    # Random weights amplify every rounding, and more so when all operators round.
    mean, agreement = (1e-2, 0.9) if profile == "int8_full" else (5e-3, 0.95)
    assert np.abs(found - expected).mean() < mean
    assert (found.argmax(1) == expected.argmax(1)).mean() >= agreement
    assert expected.std(0).mean() > 0.02, "the answers depend on the picture"
    assert not set(runner.operators) & {"SHAPE", "PACK", "CUSTOM", "BROADCAST_TO", "WHERE"}
    assert not [kind for kind in runner.operators if kind.startswith("Flex")]
    if profile != "int8_full" and part != "chosen":  # hard attention's TOPK_V2 and ONE_HOT are no XNNPACK's
        assert runner.delegated == 1.0


@pytest.mark.parametrize("part", ["plain", "averaged", "alone"])
def test_no_tensor_of_int8_full_has_two_ranges(part):
    """Trained apart they would round it twice, which the file does not."""
    changes = {"pooling": "mean", "stem": "compact", "patch_size": 4} if part == "alone" else PARTS[part]
    aware = quantize_aware(random_vit(**changes), "int8_full", pictures(8, seed=1))
    plain, _ = aware.deploy()
    with record(plain, aware.spec) as tensors:
        plain(from_raw({"image": pictures(2, seed=2).astype("float32")}, plain))
    seen = {role: np.asarray(tensor) for role, tensor in tensors.items()}
    trained = {key: seen[key] for key, kind in aware.spec.items() if kind.endswith("range")}
    assert len(trained) > 40
    for (one, a), (other, b) in itertools.combinations(trained.items(), 2):
        assert a.size != b.size or not np.allclose(a.ravel(), b.ravel(), atol=1e-6), (one, other)


@pytest.mark.parametrize("profile", ["int4", "int4_block"])
def test_int4_kernels_are_in_the_file_to_the_last_bit(profile, tmp_path):
    """Dequantized by LiteRT itself, through a Keras model whose kernels hold the rounded values."""
    aware = quantize_aware(random_vit(), profile)
    kernel = np.asarray(aware.deploy()[0].blocks[1].mlp.expand.kernel)
    groups = kernel.reshape(-1, 32, kernel.shape[1]) if profile == "int4_block" else kernel[None]
    steps = np.abs(groups).max(1, keepdims=True) / 7
    levels = groups / steps
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    assert set(levels.round().ravel()) == set(range(-7, 8))
    runner = as_file(aware, tmp_path / "model.tflite")
    images = pictures(40, seed=2)
    expected = np.asarray(tf.nn.softmax(aware(normalise(images))))
    assert np.abs(runner.predict(images) - expected).mean() < 2e-3


def test_mixed_has_the_projections_of_int8_and_the_attention_of_int8_static(tmp_path):
    aware = quantize_aware(random_vit(), "int8_mixed", pictures(64, seed=1))
    kinds = Counter(key.rsplit(".", 1)[1] + " " + kind for key, kind in aware.spec.items())
    assert kinds == {
        "input token": 14,
        "kernel weight": 14,
        "output range": 2,  # queries
        "output symmetric_range": 4,  # keys and values
        "scores range": 2,
        "probabilities range": 2,
        "context range": 2,
    }
    path = tmp_path / "model.tflite"
    as_file(aware, path)
    ops, types = types_of(path)
    attention = [op for op in ops if op.opcode == "BATCH_MATMUL"]
    assert len(attention) == 4
    assert {types[t] for op in attention for t in (*op.inputs, *op.outputs)} == {"INT8"}
    projections = [op for op in ops if op.opcode == "FULLY_CONNECTED"]
    assert len(projections) == 14
    for op in projections:
        assert [types[op.inputs[0]], types[op.inputs[1]], types[op.outputs[0]]] == [
            "FLOAT32",
            "INT8",
            "FLOAT32",
        ]


def types_of(path):
    """(operators, the type of each tensor) of a .tflite."""
    from ai_edge_litert.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    return read_graph(path.read_bytes()).operators, [
        flatbuffer_utils.type_to_name(tensor.type) for tensor in file.subgraphs[0].tensors
    ]


def test_int4_keeps_patches_and_head_at_eight_bits():
    kinds = quantize_aware(random_vit(), "int4").spec
    assert kinds["patches.projection.kernel"] == kinds["head.kernel"] == "weight"
    assert Counter(kinds.values()) == {"weight4": 12, "weight": 2, "token": 14}


def test_blocks_are_for_kernels_that_they_fill():
    model = fold(random_vit(width=48, mlp_width=64), pixels=False)
    kinds = quantization_spec(model, PROFILES["int4_block"])
    assert kinds["block_0.mlp.expand.kernel"] == "weight4", "48 inputs are no multiple of 32"
    assert kinds["block_0.mlp.contract.kernel"] == "weight4_block"


def test_block_quantizer_by_hand():
    kernel = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    found = np.asarray(FakeQuantizer("weight4_block")(kernel))
    for start in (0, 32):
        for column in range(3):
            values = kernel[start : start + 32, column].astype("float64")
            step = float(tf.cast(tf.cast(np.abs(values).max() / 7, tf.bfloat16), tf.float32))
            expected = np.clip(np.round(values / step), -7, 7) * step
            np.testing.assert_allclose(found[start : start + 32, column], expected, rtol=1e-6)


def test_int8_full_is_int8_throughout_and_uint8_at_both_ends(tmp_path):
    runner = as_file(quantize_aware(random_vit(), "int8_full", pictures(32, seed=1)), tmp_path / "m.tflite")
    assert runner._places["image"]["dtype"] == runner._output["dtype"] == np.uint8
    assert runner._places["image"]["quantization"] == (1.0, 0), "pixels go in as they are"
    assert runner._output["quantization"] == (1 / 256, 0)
    types = {str(d["dtype"]) for d in runner._interpreter.get_tensor_details() if len(d["shape"])}
    assert "<class 'numpy.float32'>" not in types
    assert runner.operators["QUANTIZE"] == 2, "uint8 to int8 and back, nothing else"
    assert "DEQUANTIZE" not in runner.operators


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "hard", "top_k": 2}, r"int8_full cannot take a ViT with attention='hard'"),
        ({"position": "rotary2d"}, r"int8_full cannot take a ViT with position='rotary2d'"),
        ({"stem": "overlapping"}, r"stem='overlapping'.*use int8 or int8_static"),
    ],
)
def test_int8_full_names_what_it_cannot_take(changes, message):
    with pytest.raises(InputError, match=message):
        quantize_aware(random_vit(**changes), "int8_full")


def test_protected_layers_stay_float(tmp_path):
    model = random_vit()
    for profile in ("int8", "int8_static"):
        protect = ["block_0.mlp", "block_1.attention.output"]
        aware = quantize_aware(model, profile, pictures(32, seed=1), protect=protect)
        assert not [key for key in aware.spec if key.startswith(tuple(protect))]
        runner = as_file(aware, tmp_path / f"{profile}.tflite")
        graph = runner._interpreter.get_tensor_details()
        float_kernels = sorted(
            tuple(d["shape"]) for d in graph if d["dtype"] == np.float32 and tuple(d["shape"]) in KERNELS
        )
        assert [shape for shape in float_kernels if shape == (64, 32)] == [(64, 32)]
        assert [shape for shape in float_kernels if shape == (32, 64)] == [(32, 64)]
        images = pictures(40, seed=2)
        expected = np.asarray(tf.nn.softmax(aware(normalise(images))))
        assert np.abs(runner.predict(images) - expected).mean() < 5e-3
    aware.save(tmp_path / "aware.keras")
    assert keras.models.load_model(tmp_path / "aware.keras").spec == aware.spec
    with pytest.raises(InputError, match=r"no layer 'block_7' to protect: names look like block_0, block_0"):
        quantize_aware(model, "int8", protect=["block_7"])


KERNELS = {(32, 32), (64, 32), (32, 64)}


def test_everything_protected_is_the_float_model():
    model = random_vit()
    names = ["patches", "block_0", "block_1", "head"]
    aware = quantize_aware(model, "int8_static", pictures(32, seed=1), protect=names)
    images = normalise(pictures(5, seed=2))
    np.testing.assert_allclose(np.asarray(aware(images)), np.asarray(model(images)), atol=2e-5)


def test_a_role_without_a_tensor_is_an_error():
    """Ranges of a model of another depth: the role has no layer, whatever the profile."""
    plain, ranges = quantize_aware(random_vit(), "int8_static", pictures(16, seed=1)).deploy()
    assert len(pair(plain, tapped_file, ranges)[2].roles) > 20
    with pytest.raises(
        RuntimeError, match=r"no layer of the model has block_7.mlp.expand.input \(1 in all\)"
    ):
        tapped_file(plain, [*ranges, "block_7.mlp.expand.input"])


def test_every_hook_has_a_name_of_its_own():
    model = fold(random_vit(stem="compact", patch_size=4, pooling="attention", merge=(1, 4)), pixels=False)
    names = [name for name, _ in quantizable_layers(model)]
    assert len(names) == len(set(names))
    assert {"model", "block_0", "block_0.norm_1", "patches.convolution_2", "pool.attention.key"} <= set(names)


def test_float16_is_half_the_size_and_the_same_answers(tmp_path):
    plain = fold(random_vit(width=96, mlp_width=384))
    sizes = {}
    images = pictures(10, seed=2)
    answers = {}
    for half in (False, True):
        path = tmp_path / f"{half}.tflite"
        path.write_bytes(float_file(plain, half=half))
        sizes[half] = path.stat().st_size
        answers[half] = load_runner(path).predict(images)
        ops = read_graph(path.read_bytes()).operators
        assert ("DEQUANTIZE" in {op.opcode for op in ops}) == half
    assert sizes[True] < 0.56 * sizes[False]
    np.testing.assert_allclose(answers[True], answers[False], atol=5e-3)
    assert np.abs(answers[True] - answers[False]).max() > 0
