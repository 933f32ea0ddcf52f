"""Every kind of file gives the same answers through `load_runner`, and refuses what it cannot read."""

import gc
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from damaged_tflite import crashing

from keras_vit.errors import InputError, Notice
from keras_vit.export.verification.runners import delegated_share, load_runner, open_runner

COPIES = ["keras/float32.keras", "saved_model/1", "saved_model", "float32.tflite"]


@pytest.mark.parametrize("name", COPIES)
def test_every_copy_gives_the_model_s_probabilities(directory, images, float_probabilities, name):
    assert len(np.unique(float_probabilities.argmax(-1))) == 3  # else the comparison shows little
    runner = load_runner(directory / name)
    answer = runner.predict(images)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, float_probabilities, atol=1e-5)
    np.testing.assert_allclose(runner.predict(images.astype(np.float64)), float_probabilities, atol=1e-5)
    assert runner.kind == {"k": "keras", "s": "saved_model", "f": "tflite"}[name[0]]
    assert (runner.image_size, runner.num_classes) == ((8, 8), 3)
    assert runner.labels == ["apple", "pear", "plum"]


def test_batches_do_not_change_the_answer(directory, images, float_probabilities):
    many = np.concatenate([images, images, images])  # 120: a batch of 64 and one of 56
    seen = []
    answer = load_runner(directory / "keras/float32.keras").predict(many, lambda *counts: seen.append(counts))
    np.testing.assert_allclose(answer, np.tile(float_probabilities, (3, 1)), atol=1e-5)
    assert seen == [(64, 120), (120, 120)]
    assert load_runner(directory / "float32.tflite").predict(images[:0]).shape == (0, 3)


def test_integer_inputs_and_outputs_are_quantized_and_dequantized(
    tmp_path, convert, models, images, float_probabilities
):
    model = models["float32"]
    mean, std = model.preprocessing["mean"], model.preprocessing["std"]
    convert(
        lambda image: tf.nn.softmax(model((image / 255.0 - mean) / std)),
        tmp_path / "int8_full.tflite",
        tmp_path / "scratch",
        representative=images,
    )
    runner = open_runner(tmp_path / "int8_full.tflite")
    assert runner._places["image"]["dtype"] == runner._output["dtype"] == np.uint8
    answer = runner.predict(images)
    assert np.abs(answer - float_probabilities).mean() < 0.03
    np.testing.assert_allclose(answer.sum(-1), 1, atol=0.02)
    assert 0 < runner.delegated < 1
    assert runner.labels is None


def test_the_number_of_runs_is_bounded(directory, images):
    runner = load_runner(directory / "float32.tflite")
    assert len(runner.time_one(images[0], seconds=0)) == 20
    assert len(runner.time_one(images[0], seconds=60, most=30)) == 30
    assert all(milliseconds > 0 for milliseconds in runner.time_one(images[0], seconds=0))


def test_a_tflite_file_does_not_need_tensorflow(directory):
    code = (
        "import sys; from keras_vit.export.verification.runners import load_runner; "
        "load_runner(sys.argv[1]); "
        "print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(directory / "float32.tflite")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_delegated_share(tmp_path, convert, images):
    # XNNPACK has no CUMSUM. Weights are needed, else everything is folded or fused away.
    weights = tf.constant(np.random.default_rng(0).normal(0, 0.01, (192, 3)), tf.float32)

    def dense(image):
        return tf.reshape(image / 255.0, [1, 192]) @ weights

    convert(lambda image: tf.nn.softmax(dense(image)), tmp_path / "all.tflite", tmp_path / "1")
    convert(
        lambda image: tf.nn.softmax(2.0 * tf.cumsum(dense(image), axis=1)),
        tmp_path / "some.tflite",
        tmp_path / "2",
    )
    whole, part = load_runner(tmp_path / "all.tflite"), load_runner(tmp_path / "some.tflite")
    assert whole.delegated == 1.0
    assert part.operators["CUMSUM"] == 1
    assert part.delegated == 1 - 1 / sum(part.operators.values())
    expected = tf.nn.softmax(2.0 * tf.cumsum(dense(images[:1].astype(np.float32)), axis=1))
    np.testing.assert_allclose(part.predict(images[:1]), expected, atol=1e-5)


def test_the_delegated_share_equals_the_number_of_unclustered_delegate_nodes(directory):
    from ai_edge_litert.interpreter import Interpreter

    file = str(directory / "float32.tflite")
    interpreter = Interpreter(file, experimental_disable_delegate_node_fusion=True)
    interpreter.allocate_tensors()
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    delegates = names.count("DELEGATE")
    assert delegates > 100
    assert load_runner(file).delegated == delegates / (len(names) - delegates)


def test_the_delegated_share_of_hand_made_graphs():
    def op(name, inputs, outputs):
        return {"op_name": name, "inputs": inputs, "outputs": outputs}

    # 0 -> A -> 1 -> B -> 2 -> C -> 3, with constant 9 into A and C
    nodes = [op("A", [0, 9], [1]), op("B", [1], [2]), op("C", [2, 9], [3])]
    assert delegated_share(nodes) == 0
    assert delegated_share([*nodes, op("DELEGATE", [0, 9], [3])]) == 1
    assert delegated_share([*nodes, op("DELEGATE", [0, 9], [2])]) == 2 / 3
    assert delegated_share([*nodes, op("DELEGATE", [0, 9], [1]), op("DELEGATE", [2, 9], [3])]) == 2 / 3
    assert delegated_share([]) == 0


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_runner(path, **options)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_model_is_refused(tmp_path, directory):
    refused(
        tmp_path / "nowhere.tflite", "there is no .*nowhere.tflite: give a .tflite file, a .keras file or"
    )
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    refused(tmp_path / "model.onnx", "unknown suffix '.onnx'")
    refused(directory, "holds no saved_model.pb: give one of the models in it: .*float32.tflite")
    refused(tmp_path, "holds no saved_model.pb: give a .tflite file")
    refused(directory / "float32.tflite", "threads must be a positive integer, not 0", threads=0)


def test_damaged_files_are_refused(tmp_path, directory):
    content = (directory / "float32.tflite").read_bytes()
    for data in (b"", b"TFL3", b"not a model", content[:1000], content[: len(content) - 10]):
        (tmp_path / "bad.tflite").write_bytes(data)
        refused(tmp_path / "bad.tflite", "bad.tflite (is not a TFLite file|cannot be loaded by LiteRT)")
    for data in (b"", b"no zip", (directory / "keras/float32.keras").read_bytes()[:5000]):
        (tmp_path / "bad.keras").write_bytes(data)
        refused(tmp_path / "bad.keras", "bad.keras is no Keras file, or a damaged one: save it again")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no model")
    refused(tmp_path / "saved", "cannot be loaded as a SavedModel")


def test_models_of_another_kind_are_refused(tmp_path, convert):
    keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    refused(tmp_path / "other.keras", "holds a Sequential, not a classifier of keras_vit")
    convert(lambda image: 2.0 * image, tmp_path / "other.tflite", tmp_path / "scratch", key="double")
    refused(tmp_path / "other.tflite", "has the signatures double, not `serving_default`")
    refused(tmp_path / "scratch", "has the signatures double, not `serving_default`")


def test_images_of_another_size_are_refused(directory):
    with pytest.raises(InputError, match=r"takes images of shape \[N, 8, 8, 3\], not \[2, 9, 8, 3\]: resize"):
        load_runner(directory / "float32.tflite").predict(np.zeros((2, 9, 8, 3), np.uint8))


def test_the_newest_version_and_the_right_labels_are_found(tmp_path, directory):
    for version in ("2", "10", "notes"):
        (tmp_path / "saved_model" / version).mkdir(parents=True)
    (tmp_path / "saved_model" / "10").rmdir()
    (directory / "saved_model" / "1").rename(tmp_path / "saved_model" / "10")
    try:
        (tmp_path / "labels.txt").write_text("only\ntwo\n")  # belongs to another model
        runner = load_runner(tmp_path / "saved_model")
        assert (runner.path.name, runner.labels) == ("10", None)
        (tmp_path / "labels.txt").write_text("a\nb\nc\n")
        assert load_runner(tmp_path / "saved_model").labels == ["a", "b", "c"]
    finally:
        (tmp_path / "saved_model" / "10").rename(directory / "saved_model" / "1")


def test_a_file_that_crashes_litert_is_refused(tmp_path, directory):
    (tmp_path / "bad.tflite").write_bytes(crashing((directory / "float32.tflite").read_bytes()))
    refused(
        tmp_path / "bad.tflite",
        "bad.tflite cannot be run by LiteRT .(killed by SIG|MemoryError).*Export the model again.",
    )


def test_the_process_of_a_file_ends_with_its_runner(directory, images):
    runner = load_runner(directory / "float32.tflite")
    runner.predict(images[:2])
    process = runner._worker._process
    assert process.poll() is None
    del runner
    gc.collect()
    assert process.poll() is not None


def test_answers_that_are_no_numbers_are_refused(tmp_path, convert):
    convert(lambda image: tf.math.log(image[:, 0, 0] - 1.0), tmp_path / "bad.tflite", tmp_path / "scratch")
    pixels = np.full((3, 8, 8, 3), 9, np.uint8)
    pixels[1] = 0  # log of a negative number
    for model in ("bad.tflite", "scratch"):
        runner = load_runner(tmp_path / model)
        assert np.isfinite(runner.predict(pixels[:1])).all()
        with pytest.raises(InputError, match=f"{model} answers 1 of 3 examples with NaN or infinity"):
            runner.predict(pixels)


def test_only_regular_files_are_opened(tmp_path):
    for name in ("model.tflite", "model.keras"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, f"{name} is no regular file")
        (tmp_path / f"zero{name}").symlink_to("/dev/zero")
        refused(tmp_path / f"zero{name}", f"zero{name} is no regular file")


def test_labels_that_cannot_be_the_model_s_are_not_used_and_said(tmp_path, directory):
    shutil.copy(directory / "float32.tflite", tmp_path / "model.tflite")
    for content in ("a\nb\nc\n".encode("utf-16"), bytes(range(256))):
        (tmp_path / "labels.txt").write_bytes(content)
        refused(tmp_path / "model.tflite", "labels.txt is no text in UTF-8 .*save it as UTF-8")
    for content, why in ((b"a\nb\n", "has 2 lines, and the model 3 classes"), (b"", "has 0 lines")):
        (tmp_path / "labels.txt").write_bytes(content)
        with pytest.warns(Notice, match=rf"labels.txt is not used.*{why}"):
            assert load_runner(tmp_path / "model.tflite").labels is None
    (tmp_path / "labels.txt").write_bytes("\ufeffä\nb\nc\n".encode())
    assert load_runner(tmp_path / "model.tflite").labels == ["ä", "b", "c"]
