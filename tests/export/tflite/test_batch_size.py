"""The batch of a .tflite, resized in the real LiteRT: each example gets the answer that it gets alone."""

import importlib.resources

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from random_weights import randomize

from keras_vit import ViT
from keras_vit.export import fold
from keras_vit.export.tflite.batch_size import can_resize, resizable
from keras_vit.export.tflite.convert import float_file

CIFAR10 = importlib.resources.files("keras_vit.mobile_demo") / "cifar10" / "export"


def answers(content, images):
    """[every output], and the number of operators that stay outside of delegates."""
    interpreter = Interpreter(model_content=content)
    entry = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(entry["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], images.astype(entry["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def check(content, side, channels=3):
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, channels))
    alone = [answers(content, images[i : i + 1]) for i in range(4)]
    assert np.ptp([one[0] for one in alone], axis=0).max() > 0.01, "the answers differ"
    for count in (1, 3, 4):
        for output, together in enumerate(answers(content, images[:count])):
            expected = np.concatenate([one[output] for one in alone[:count]])
            np.testing.assert_allclose(together, expected, atol=1e-6)


@pytest.mark.parametrize("profile", ["float32", "int8", "int4", "int8_static"])
def test_the_files_of_the_demo_take_several_pictures(profile):
    content = (CIFAR10 / f"{profile}.tflite").read_bytes()
    check(content, 32)
    place = Interpreter(model_content=content).get_input_details()[0]
    assert list(place["shape"]) == list(place["shape_signature"]) == [1, 32, 32, 3], "but declare one"


@pytest.mark.parametrize("half", [False, True])
def test_a_class_token_joins_the_patches_of_every_picture(half):
    keras.utils.set_random_seed(0)
    model = fold(randomize(ViT("Nano/4", image_size=8, num_classes=3, depth=2)))
    content = float_file(model, half=half)
    changed, done = resizable(content)
    assert done and abs(len(changed) - len(content)) < 1000
    check(changed, 8)
    images = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3))
    np.testing.assert_array_equal(answers(changed, images)[0], answers(content, images)[0])
    counts = [
        [op["op_name"] for op in Interpreter(model_content=c)._get_ops_details()] for c in (content, changed)
    ]
    assert len(counts[0]) - len(counts[1]) in (0, 2), "two tables in float16 became one in float32"
    assert counts[0].count("DELEGATE") == counts[1].count("DELEGATE")


def test_a_file_that_cannot_be_resized_stays_as_it_is(tmp_path):
    model = fold(randomize(ViT("Nano/4", image_size=8, num_classes=3, depth=1, registers=2)))
    content = float_file(model)
    assert resizable(content) == (content, False)
    (tmp_path / "model.tflite").write_bytes(content)
    assert not can_resize(tmp_path / "model.tflite")
    assert can_resize(CIFAR10 / "int8.tflite")
