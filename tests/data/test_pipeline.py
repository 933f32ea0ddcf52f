"""The input pipeline: every example once an epoch, the same on every run; what a recipe refuses."""

import json

import numpy as np
import pytest

from keras_vit import ViT
from keras_vit.data.image_data import Split
from keras_vit.data.pipeline import evaluation_batches, training_batches
from keras_vit.errors import InputError
from keras_vit.training.recipes import recipe

PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 1.0]}
MODEL = ViT("Nano/2", image_size=8, num_classes=3, preprocessing=PREPROCESSING)


def split(count=10):
    """Picture i is filled with the value 20 i, and its label is i modulo 3."""
    images = np.repeat(np.arange(count, dtype=np.uint8) * 20, 8 * 8 * 3).reshape(count, 8, 8, 3)
    return Split(images, np.arange(count, dtype=np.int32) % 3, [str(i) for i in range(count)])


def batches(first, last, seed=0, augment="none"):
    chosen = recipe("thumbnails", batch_size=4, augment=augment, seed=seed)
    dataset = training_batches(split(), MODEL, chosen, first, last)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def order(given):
    """Which pictures came, from their values in the second channel: (x / 255 - 0.5) / 0.5."""
    values = np.concatenate([images[:, 0, 0, 1] for images, _ in given])
    return np.round((values * 0.5 + 0.5) * 255 / 20).astype(int).tolist()


def test_every_example_comes_once_an_epoch_with_its_label():
    given = batches(0, 2)
    assert [len(images) for images, _ in given] == [4, 4, 2, 4, 4, 2]
    epochs = order(given[:3]), order(given[3:])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    labels = np.concatenate([labels for _, labels in given[:3]])
    np.testing.assert_array_equal(labels.argmax(1), np.array(epochs[0]) % 3)


def test_normalisation_is_per_channel():
    (images, _), *_ = evaluation_batches(split(), MODEL, batch_size=10)
    np.testing.assert_allclose(images[5, 0, 0], (100 / 255 - 0.5) / np.array([0.25, 0.5, 1.0]), rtol=1e-5)


@pytest.mark.parametrize("augment", ["none", "affine", "light", "crop", "strong"])
def test_starting_at_epoch_one_gives_what_an_unbroken_run_gives_there(augment):
    unbroken, resumed = batches(0, 2, augment=augment)[3:], batches(1, 2, augment=augment)
    for (a, x), (b, y) in zip(unbroken, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)
    assert order(batches(1, 2, seed=1)) != order(batches(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augment": "wild"},
            r"unknown augmentation 'wild': the known ones are none, affine, light, crop, strong",
        ),
        ({"epochs": 0}, r"epochs must be at least 1, not 0"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be between 0 and 0.999"),
        ({"image_size": (9, 9)}, r"9x9 is not a multiple of the patch 2x2"),
        ({"variant": "Huge/2"}, r"unknown variant 'Huge/2'"),
        ({"precision": "int8"}, r"unknown precision 'int8'"),
        ({"epoch": 3}, r"unknown recipe field 'epoch'.*Did you mean 'epochs'"),
    ],
)
def test_a_recipe_refuses(options, message):
    with pytest.raises(InputError, match=message):
        recipe("thumbnails", **options)


def test_the_recipe_suits_the_image_size():
    assert [recipe(image_size=(s, s)).variant for s in (8, 32, 224)] == ["Nano/2", "Lite/4", "Ti/16"]


def test_a_recipe_of_a_config_is_the_same_after_a_trip_through_json():
    variant = {"patch_size": (4, 2), "width": 8, "num_heads": 2, "merge": (3, 16)}
    chosen = recipe("thumbnails", image_size=(8, 8), variant=variant)
    again = recipe("thumbnails", **json.loads(json.dumps(chosen.to_dict())))
    assert again == chosen
    assert again.model_config().merge == (3, 16)
