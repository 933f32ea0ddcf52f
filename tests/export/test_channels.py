"""Exports of models of grey pictures and of many channels, which normalise by themselves."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from random_weights import randomize

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export import export, verify
from keras_vit.export.tflite.metadata import read_metadata
from keras_vit.export.verification.runners import load_runner
from keras_vit.export.verification.verify_worker import ask

LABELS = ["a", "b", "c"]
PROFILES = {1: ["float32", "int8_full"], 5: ["float32"]}


def pixels(channels, count=12):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


@pytest.fixture(scope="module", params=[1, 5])
def exported(request, tmp_path_factory):
    """(channels, model that takes normalised images, the export directory of one that takes pixels)."""
    channels = request.param
    preprocessing = {"mean": [0.4] * channels, "std": [0.3] * channels}
    model = randomize(ViT("Nano/4", 8, 3, depth=1, channels=channels, preprocessing=preprocessing))
    folder = tmp_path_factory.mktemp("channels") / "dist"
    whole = model.rebuilt(include_preprocessing=True)
    export(whole, folder, PROFILES[channels], calibration=pixels(channels), labels=LABELS)
    return channels, model, folder


def answers(model, images):
    return tf.nn.softmax(model(((images / 255 - 0.4) / 0.3).astype("float32"))).numpy()


def test_every_file_takes_pixels_and_answers_as_the_model(exported):
    channels, model, folder = exported
    images = pixels(channels)
    expected = answers(model, images)
    for name in [f"{profile}.tflite" for profile in PROFILES[channels]] + ["saved_model"]:
        runner = load_runner(folder / name)
        assert (runner.image_size, runner.channels) == ((8, 8), channels)
        tolerance = 0.1 if "int8" in name else 1e-5
        np.testing.assert_allclose(runner.predict(images), expected, atol=tolerance, err_msg=name)


def test_verify_takes_such_pictures_and_no_others(exported, tmp_path):
    channels, model, folder = exported
    images = pixels(channels)
    np.save(tmp_path / "image.npy", images)
    job = {"path": str(folder / "keras" / "float32.keras"), "result": str(tmp_path / "result.npz")}
    ask({**job, "inputs": {"image": str(tmp_path / "image.npy")}, "threads": 1, "seconds": 0.01}, print)
    with np.load(job["result"]) as found:
        np.testing.assert_allclose(found["answers"], answers(model, images), atol=1e-5)
    with pytest.raises(InputError, match=rf"uint8 \[N, 8, 8, {channels}\]: .* channels={channels}\."):
        verify(folder, (pixels(3), np.arange(12) % 3))
    assert json.loads((folder / "manifest.json").read_text())["model"]["channels"] == channels


def test_a_file_says_of_its_pictures_what_they_are(exported):
    channels, _, folder = exported
    metadata = read_metadata((folder / "float32.tflite").read_bytes())
    (image,) = metadata["subgraph_metadata"][0]["input_tensor_metadata"]
    properties = image["content"]["content_properties"]["ImageProperties"]
    assert properties.get("color_space") == {1: 2, 5: None}[channels]  # 2: GRAYSCALE of ColorSpaceType
    assert image["description"].startswith({1: "Grey image", 5: "5-channel image"}[channels])
    text = (folder / "serving" / "README.md").read_text()
    assert f"[N, H, W, {channels}]" in text and ("serve_bytes" in text) == (channels == 1)


def test_a_server_reads_files_grey_and_none_of_five_channels(exported):
    channels, model, folder = exported
    signatures = tf.saved_model.load(str(folder / "saved_model" / "1")).signatures
    if channels == 5:
        assert "serve_bytes" not in signatures
        return
    rgb, file = pixels(3, 1)[0], io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    found = signatures["serve_bytes"](image_bytes=tf.constant([file.getvalue()]))["probability"]
    grey = np.asarray(Image.fromarray(rgb).convert("L"))[None, ..., None]
    np.testing.assert_allclose(found, answers(model, grey), atol=1e-5)
