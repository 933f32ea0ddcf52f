"""Training on grey pictures and on arrays of many channels."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from rich.console import Console

from keras_vit.commands.common import load_data_of_run
from keras_vit.data import tf_decoding
from keras_vit.data.augment import POLICIES, policy
from keras_vit.data.decoding import to_channels
from keras_vit.data.image_data import Split
from keras_vit.errors import InputError
from keras_vit.training import ImageData, load_data, recipe, train
from keras_vit.training.methods.learning_rate_finder import find_rate


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Pictures of 8 x 8 in two classes: in colours, and grey already."""
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = noise(8, 8, 3) if i else noise(8, 8)
            Image.fromarray(np.roll(pixels, i, axis=0)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def quick(**options):
    return recipe("thumbnails", **{"variant": "Nano/4", "epochs": 1, "batch_size": 4, **options})


def silent():
    return Console(file=io.StringIO())


def test_grey_is_pillows_in_python_and_in_tensorflow():
    rgb = noise(64, 64, 3)
    rgb[:1] = np.arange(64)[:, None]  # grey keeps its values
    expected = np.asarray(Image.fromarray(rgb).convert("L"))[..., None]
    np.testing.assert_array_equal(to_channels(rgb, 1), expected)
    np.testing.assert_array_equal(to_channels(rgb, 1)[0, :, 0], np.arange(64))
    np.testing.assert_array_equal(tf_decoding.to_channels(tf.constant(rgb, tf.float32), 1), expected)
    np.testing.assert_array_equal(tf_decoding.to_channels(tf.constant(rgb, tf.float32), 3), rgb)


def test_files_are_read_grey(folder):
    data = load_data(folder, channels=1)
    assert data.train.images.shape[1:] == (8, 8, 1)
    for pixels, name in zip(data.train.images, data.train.names, strict=True):
        np.testing.assert_array_equal(pixels[..., 0], Image.open(folder / name).convert("RGB").convert("L"))
    with pytest.raises(InputError, match=r"5 channels takes no picture files.*\[N, height, width, 5\]"):
        load_data(folder, channels=5)


@pytest.mark.parametrize("channels", [1, 5])
def test_every_augmentation_keeps_the_channels(channels):
    images, labels = tf.constant(noise(8, 8, 8, channels), tf.float32), tf.one_hot([0, 1] * 4, 2)
    for name in POLICIES:
        made, mixed = policy(name)(images, labels, tf.constant([1, 2]))
        assert made.shape == images.shape and mixed.shape == labels.shape
        assert np.isfinite(made).all() and np.min(made) >= 0 and np.max(made) <= 255


def test_a_grey_run_and_its_data_again(folder, tmp_path):
    data = load_data(folder, channels=1)
    run = tmp_path / "run"
    train(data, run, quick(channels=1), silent())
    model = keras.models.load_model(run / "model.keras")
    assert model.config.channels == 1
    again = load_data_of_run(run, None, False)
    np.testing.assert_array_equal(again.test.images, data.test.images)
    # Both ways out of a mismatch lead on.
    with pytest.raises(
        InputError, match=r"of 3 .* of 1: load them with channels=1, or say channels=3 in the"
    ):
        train(load_data(folder), tmp_path / "other", quick(channels=1), silent())
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match=r"trained with channels 1, now it is None"):
        train(load_data(folder), run, quick(), silent())


def test_arrays_of_many_channels_train():
    images, labels = noise(12, 8, 8, 5), np.arange(12, dtype="int32") % 2
    parts = [Split(images[s], labels[s], []) for s in (slice(0, 8), slice(8, 12))]
    data = ImageData(*parts, ["a", "b"], "arrays", "abc", [])
    found = find_rate(data, quick(channels=5, augment="none"), steps=10)
    assert np.isfinite(found.losses).all()
    with pytest.raises(InputError, match=r"of 5 channels for a model of 3: say channels=5 in the recipe"):
        find_rate(data, quick(), steps=10)
