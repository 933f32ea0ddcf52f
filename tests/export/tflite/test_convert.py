"""What was trained is what is shipped: Keras models against their .tflite files in the real LiteRT."""

import json
from collections import Counter

import keras
import numpy as np
import pytest
from bright_thirds import PREPROCESSING, normalise, problem

from keras_vit import ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.export import About, Serving, export, load_runner, quantize_aware, verify
from keras_vit.export.tflite.convert import ConversionError, convert
from keras_vit.export.tflite.graph import read_graph

LABELS = ["low", "middle", "high"]


def fit(model, epochs, rate):
    images, labels = problem(600, seed=0)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(normalise(images), labels, epochs=epochs, batch_size=50, verbose=0).history["accuracy"][
        -1
    ]


@pytest.fixture(scope="module", params=["cls", pytest.param("mean", marks=pytest.mark.slow)])
def directory(request, tmp_path_factory):
    """A model trained for a moment, fine-tuned for both profiles, exported."""
    keras.utils.set_random_seed(0)
    config = ViTConfig(patch_size=(4, 2), width=32, depth=2, num_heads=2, mlp_width=64, pooling=request.param)
    model = ViT(config, image_size=(12, 8), num_classes=3, preprocessing=PREPROCESSING)
    assert fit(model, epochs=6, rate=3e-3) > 0.9
    aware = {}
    for profile in ("int8", "int8_static"):
        aware[profile] = quantize_aware(model, profile, problem(100, seed=2)[0])
        assert fit(aware[profile], epochs=1, rate=3e-4) > 0.9
    folder = tmp_path_factory.mktemp("export") / "out"
    export(
        model,
        folder,
        ["float32", *aware],
        labels=LABELS,
        trained=aware,
        about=About(source={"source": "test"}),
    )
    return folder


def test_the_folder_holds_what_is_promised(directory):
    assert sorted(p.name for p in directory.iterdir()) == [
        "float32.tflite",
        "int8.tflite",
        "int8_static.tflite",
        "keras",
        "labels.txt",
        "manifest.json",
        "report.json",
        "saved_model",
        "serving",
    ]
    assert (directory / "labels.txt").read_text().splitlines() == LABELS
    manifest = json.loads((directory / "manifest.json").read_text())
    rows = json.loads((directory / "report.json").read_text())["artifacts"]
    assert [row["name"] for row in rows] == [a["name"] for a in manifest["artifacts"]]
    assert rows[0]["bytes"] == (directory / "float32.tflite").stat().st_size


def test_every_copy_answers_like_the_keras_model_it_came_from(directory):
    report = verify(directory, problem(400, seed=3), seconds=0.05)
    rows = {row["name"]: row for row in report["artifacts"]}
    assert [row["error"] for row in rows.values()] == [None] * len(rows)
    assert rows["float32.tflite"]["max_abs_diff"] < 1e-5
    assert rows["saved_model/1"]["max_abs_diff"] < 1e-5
    for name, most in (("int8.tflite", 1e-3), ("int8_static.tflite", 5e-3)):
        assert rows[name]["agreement"] >= 0.995
        assert rows[name]["mean_abs_diff"] < most
        assert rows[name]["top1"] >= rows["float32.tflite"]["top1"] - 0.01
    for name in ("float32.tflite", "int8.tflite", "int8_static.tflite"):
        assert rows[name]["delegated"] == 1.0, "XNNPACK runs every operator"


def test_files_take_several_pictures_at_once(directory):
    from ai_edge_litert.interpreter import Interpreter

    images = problem(4, seed=5)[0].astype("float32")
    manifest = json.loads((directory / "manifest.json").read_text())
    files = [entry for entry in manifest["artifacts"] if entry["name"].endswith(".tflite")]
    assert [entry["resizable"] for entry in files] == [True] * 3
    for entry in files:
        alone = load_runner(directory / entry["name"]).predict(images)
        reader = Interpreter(str(directory / entry["name"]))
        reader.resize_tensor_input(reader.get_input_details()[0]["index"], images.shape)
        runner = reader.get_signature_runner("serving_default")
        np.testing.assert_allclose(runner(image=images)["probability"], alone, atol=1e-6)


def test_operators_and_types(directory):
    """No Flex or custom operator, none that asks for a shape; and int8 where it was meant."""
    kinds = {}
    for profile in ("float32", "int8", "int8_static"):
        ops = read_graph((directory / f"{profile}.tflite").read_bytes()).operators
        kinds[profile] = Counter(op.opcode for op in ops)
        assert not set(kinds[profile]) & {"SHAPE", "PACK", "CUSTOM", "BROADCAST_TO", "WHERE"}
        assert not [kind for kind in kinds[profile] if kind.startswith("Flex")]
    projections = 1 + 2 * 6 + 1  # patches, two blocks, head
    assert all(kinds[profile]["FULLY_CONNECTED"] == projections for profile in kinds)
    assert kinds["int8"]["QUANTIZE"] == 0
    assert types_of(directory / "int8_static.tflite", "FULLY_CONNECTED") == {
        "INT8": projections - 1,
        "FLOAT32": 1,
    }
    assert types_of(directory / "int8_static.tflite", "BATCH_MATMUL") == {"INT8": 4}
    assert types_of(directory / "int8_static.tflite", "SOFTMAX") == {"FLOAT32": 3}


def types_of(path, kind):
    """How many operators of a kind take a first input of each type."""
    from ai_edge_litert.tools import flatbuffer_utils

    file = flatbuffer_utils.read_model(str(path))
    graph = file.subgraphs[0]
    names = {
        value: name for name, value in vars(flatbuffer_utils.TensorType).items() if isinstance(value, int)
    }
    return Counter(
        names[graph.tensors[op.inputs[0]].type]
        for op in graph.operators
        if flatbuffer_utils.opcode_to_name(file, op.opcodeIndex) == kind
    )


def test_trained_ranges_are_on_the_tensors_they_were_trained_for(directory):
    """The width of an int8 tensor's range is 255 steps; operators are in the model's order."""
    from ai_edge_litert.tools import flatbuffer_utils

    _, ranges = keras.models.load_model(directory / "keras" / "int8_static.keras").deploy()
    file = flatbuffer_utils.read_model(str(directory / "int8_static.tflite"))
    graph = file.subgraphs[0]

    def width(tensor):
        return 255 * float(graph.tensors[tensor].quantization.scale[0])

    def trained(name):
        low, high = ranges[name]
        return high - low

    found = [
        [width(tensor) for tensor in (op.inputs[0], op.inputs[1], op.outputs[0])]
        for op in graph.operators
        if flatbuffer_utils.opcode_to_name(file, op.opcodeIndex) == "BATCH_MATMUL"
    ]
    expected = []
    for block in ("block_0.attention", "block_1.attention"):
        expected.append([trained(f"{block}.{n}") for n in ("query.output", "key.output", "scores")])
        expected.append([trained(f"{block}.{n}") for n in ("probabilities", "value.output", "output.input")])
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    widths = {round(width(t), 3) for op in graph.operators for t in op.outputs if is_int8(graph.tensors[t])}
    for name in ("patches.projection.output", "block_0.mlp.expand.output", "block_1.mlp.contract.output"):
        assert min(abs(trained(name) - w) for w in widths) < 2e-3, name


def is_int8(tensor):
    from ai_edge_litert.tools import flatbuffer_utils

    return tensor.type == flatbuffer_utils.TensorType.INT8


def test_kernels_in_the_file_are_the_trained_ones_to_the_last_bit(directory):
    """ai-edge-quantizer finds exactly the integers that fake quantization rounded to."""
    from ai_edge_litert.tools import flatbuffer_utils

    plain, _ = keras.models.load_model(directory / "keras" / "int8.keras").deploy()
    expected = np.asarray(plain.blocks[1].mlp.expand.kernel).T
    file = flatbuffer_utils.read_model(str(directory / "int8.tflite"))
    found = []
    for tensor in file.subgraphs[0].tensors:
        if tensor.type == flatbuffer_utils.TensorType.INT8 and tuple(tensor.shape) == expected.shape:
            stored = np.frombuffer(bytes(file.buffers[tensor.buffer].data), np.int8).reshape(expected.shape)
            found.append(stored * np.asarray(tensor.quantization.scale, "float32")[:, None])
    assert min(np.abs(values - expected).max() for values in found) < 1e-7


def test_serve_bytes_sees_pictures_as_predict_does(directory, tmp_path):
    """JPEG and PNG of other sizes and modes, through the SavedModel's own decoder and ours."""
    import tensorflow as tf
    from PIL import Image

    from keras_vit.data.decoding import decode

    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC)
    files = []
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGB"), ("c.png", "RGBA"), ("d.png", "L"), ("e.jpg", "L")):
        converted = picture.convert(mode)
        if mode == "RGBA":
            converted.putalpha(Image.fromarray(random.integers(0, 256, (70, 90), dtype=np.uint8)))
        converted.save(tmp_path / name, quality=95)
        files.append(tmp_path / name)
    loaded = tf.saved_model.load(str(directory / "saved_model" / "1"))
    assert sorted(loaded.signatures) == ["serve_bytes", "serve_bytes_safe", "serving_default"]
    contents = tf.constant([path.read_bytes() for path in files])
    served = loaded.signatures["serve_bytes"](image_bytes=contents)["probability"].numpy()
    ours = np.stack([decode(path, (12, 8)) for path in files])
    expected = load_runner(directory / "keras" / "float32.keras").predict(ours)
    np.testing.assert_allclose(served, expected, atol=0.02)
    # Not by accident: the same pictures cropped elsewhere give other answers.
    assert (
        np.abs(load_runner(directory / "keras" / "float32.keras").predict(ours[:, ::-1]) - expected).max()
        > 0.1
    )


def test_a_quantization_aware_model_survives_saving(directory, tmp_path):
    model = keras.models.load_model(directory / "keras" / "int8_static.keras")
    model.save(tmp_path / "again.keras")
    images = normalise(problem(5, seed=4)[0])
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(model(images)))
    assert again.deploy()[1] == model.deploy()[1]


def small():
    return ViT("Nano/4", image_size=8, num_classes=2)


def test_an_export_is_replaced_but_a_strangers_folder_is_not(tmp_path):
    out = tmp_path / "out"
    export(small(), out)
    first = json.loads((out / "manifest.json").read_text())
    export(small(), out, labels=["a", "b"])
    assert json.loads((out / "manifest.json").read_text())["labels"] == ["a", "b"] != first["labels"]
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and was not made by an export"):
        export(small(), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_converter_that_fails_leaves_nothing(tmp_path, monkeypatch):
    import keras_vit.export.directory as module

    def broken(*arguments, **options):
        raise ConversionError("converting float32 failed (exit code 1): out of luck")

    monkeypatch.setattr(module, "convert", broken)
    with pytest.raises(ConversionError, match="out of luck"):
        export(small(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_converters_last_words_are_in_the_message(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    with pytest.raises(ConversionError, match=r"converting float32 failed \(exit code 1\): .*broken.keras"):
        convert(tmp_path / "broken.keras", tmp_path / "out.tflite", "float32")
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"profiles": ["int9"]},
            r"unknown profile 'int9': the known ones are float32, float16, int8, int8_mixed, int4, "
            r"int4_block, int8_st",
        ),
        ({"profiles": []}, r"no profile given"),
        (
            {"serving": Serving("int8")},
            r"the SavedModel cannot be 'int8': it is float32 or one of the given profiles",
        ),
        ({"serving": Serving(version=0)}, r"a version must be a positive integer, not 0"),
        ({"labels": ["only one"]}, r"1 labels for a model with 2 classes"),
        ({"profiles": ["int8_static"]}, r"int8_static needs ranges: .*calibration images"),
        (
            {"profiles": ["int8_static"], "calibration": np.zeros((3, 9, 9, 3))},
            r"must have shape \[N, 8, 8, 3\] .*not \[3, 9, 9, 3\]",
        ),
        (
            {"profiles": ["int8_static"], "calibration": np.full((3, 8, 8, 3), np.nan)},
            r"contain NaN or infinity",
        ),
        ({"profiles": ["int8_static"], "calibration": np.zeros((0, 8, 8, 3))}, r"with N > 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(small(), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_quantize_aware_refuses():
    with pytest.raises(
        InputError,
        match=r"unknown profile 'float32': the known ones are int8, int8_mixed, int4, int4_block, "
        r"int8_static",
    ):
        quantize_aware(small(), "float32")
    with pytest.raises(InputError, match="already quantization-aware"):
        quantize_aware(quantize_aware(small(), "int8"), "int8")
