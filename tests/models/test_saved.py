"""A .keras file of any origin is loaded, or refused in a line; nothing in it runs."""

import io
import json
import os
import zipfile

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.errors import InputError
from keras_vit.models.saved import load_saved


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a file that can be loaded."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    keras_vit.ViT("Nano/4", image_size=8, num_classes=2).save(path)
    assert load_saved(path, "train again").num_classes == 2
    return path.read_bytes()


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        load_saved(path, "train again")
    assert str(caught.value).isprintable()
    if message != "no regular file":
        assert str(caught.value).endswith(("train again.", "No such file or directory."))


def rebuilt(content, path, **members):
    """The file with other content in some of its members."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.partition(".")[0], old.read(name)))


def test_what_is_no_keras_file(tmp_path, content):
    path = tmp_path / "model.keras"
    refused(path, "No such file")
    for data in (b"", b"no zip", content[: len(content) // 2], b"\0" * 1000):
        path.write_bytes(data)
        refused(path, "is no Keras file, or a damaged one: train again")
    path.unlink()
    os.mkfifo(path)
    refused(path, "no regular file")
    (tmp_path / "zero.keras").symlink_to("/dev/zero")
    refused(tmp_path / "zero.keras", "no regular file")


def test_zips_of_something_else(tmp_path, content):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "x")
    refused(path, "cannot be loaded as a Keras model")
    config = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("config.json"))
    unknown = json.dumps({**config, "class_name": "No", "registered_name": "No"})
    for text in ("null", "[]", "{", "[" * 100_000, unknown):
        rebuilt(content, path, config=text)
        refused(path, "cannot be loaded as a Keras model")
    rebuilt(content, path, model=b"no weights")
    refused(path, "cannot be loaded as a Keras model")


def test_code_in_a_file_does_not_run(tmp_path):
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: print("it ran") or x)]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", "cannot be loaded as a Keras model .*Lambda")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path, bad):
    model = keras_vit.ViT("Nano/4", image_size=8, num_classes=2)
    value = np.array(model.norm.scale)
    value[3] = bad
    model.norm.scale.assign(value)
    model.save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", r"NaN or infinity in 1 weights \(.*norm/scale\)")
