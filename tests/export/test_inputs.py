"""Every form in which a person may hand over pictures gives the same arrays."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.calibration import METHODS, Calibration, checked_calibration, observed_range
from keras_vit.export.inputs import calibration_images, labelled_images
from keras_vit.training import load_data

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(300) % 3
MODEL = ViT("Nano/2", image_size=(4, 6), classes=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    for i in range(12):
        (root / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(IMAGES[i]).save(root / f"class{i % 2}" / f"{i}.png")
    return root


def test_a_dataset_batched_or_not_is_its_arrays():
    single = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    one_hot = tf.data.Dataset.from_tensor_slices((IMAGES.astype("float32"), np.eye(3)[LABELS]))
    for dataset, expected in (
        (single, LABELS),
        (single.batch(64), LABELS),
        (one_hot.batch(7), np.eye(3)[LABELS]),
    ):
        images, labels = labelled_images(dataset, (4, 6))
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, expected)
        assert images.dtype == np.uint8
    np.testing.assert_array_equal(calibration_images(single.batch(100), (4, 6)), IMAGES[:256])


def test_a_folder_gives_its_training_part_to_calibrate_and_its_held_out_part_to_verify(folder):
    data = load_data(folder, (4, 6))
    for source in (str(folder), folder, data):
        np.testing.assert_array_equal(calibration_images(source, (4, 6)), data.train.images)
        images, labels = labelled_images(source, (4, 6))
        np.testing.assert_array_equal(images, data.test.images)
        np.testing.assert_array_equal(labels, data.test.labels)


def test_some_of_many_images_are_drawn_by_seed_and_none_of_them_twice():
    def drawn(*arguments, **options):
        chosen = calibration_images(IMAGES, (4, 6), *arguments, **options)
        where = [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in chosen]
        assert len(set(where)) == len(where) and where == sorted(where)
        return where

    assert len(drawn()) == 256
    assert drawn(40, 1) == drawn(40, 1) != drawn(40, 2)
    assert len(drawn(40, 1)) == 40 and 100 < np.mean(drawn(40, 1)) < 200, "from all over"
    assert drawn(1000) == list(range(300)), "all there are"


def test_a_calibration_says_itself_how_many_by_which_seed():
    chosen = calibration_images(Calibration(IMAGES, images=20, seed=5), (4, 6), count=3, seed=9)
    np.testing.assert_array_equal(chosen, calibration_images(IMAGES, (4, 6), 20, 5))
    with pytest.raises(InputError, match="calibration images must be an integer from 1 on, not 0"):
        Calibration(IMAGES, images=0)
    with pytest.raises(InputError, match=r"calibration seed must be an integer from 0 on, not 1\.5"):
        Calibration(IMAGES, seed=1.5)
    with pytest.raises(InputError, match=r"unknown calibration method 'max': .* Did you mean 'minmax'"):
        Calibration(IMAGES, method="max")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:3, :2], r"must have shape \[N, 4, 6, 3\] with N > 0, not \[3, 2, 6, 3\]"),
        (IMAGES[:0], r"with N > 0, not \[0, 4, 6, 3\]"),
        (np.where(IMAGES > 250, np.nan, IMAGES), "contain NaN or infinity"),
        (IMAGES[:3] / 255, r"run from 0.* to .*, but pixels run over 0\.\.255: leave out their norm"),
        (IMAGES[:3] / 127.5 - 1, "run from -"),
        (IMAGES[:3] * 2.0, "run from 0 to 5"),
        (IMAGES[:3].astype(str), "must be numbers"),
    ],
)
def test_calibration_pictures_that_are_none_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        checked_calibration({"image": images}, MODEL, "mean")


def test_what_is_noted_about_calibration_pictures():
    images, note = checked_calibration({"image": IMAGES[:7]}, MODEL, "minmax")
    np.testing.assert_array_equal(images["image"], IMAGES[:7])
    assert note == {
        "images": 7,
        "sha256": hashlib.sha256(IMAGES[:7].tobytes()).hexdigest(),
        "method": "minmax",
    }


@pytest.mark.parametrize(
    ("method", "expected"), [("mean", (-2.0, 4.0)), ("minmax", (-3.0, 5.0)), ("percentile", (-2.0, 4.0))]
)
def test_a_range_of_two_batches(method, expected):
    batches = [np.array([-1.0, 0, 3]), np.array([-3.0, 1, 5])]
    got = observed_range([METHODS[method](batch) for batch in batches], method)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_percentile_passes_over_the_rarest_values():
    values = np.append(np.linspace(0, 1, 100_000), 50.0)
    assert METHODS["minmax"](values) == (0.0, 50.0)
    assert METHODS["percentile"](values)[1] == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_used_is_named():
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES)
    with pytest.raises(InputError, match="images but no labels"):
        labelled_images(dataset, (4, 6))
    with pytest.raises(
        InputError, match=r"run from 0 to 1, but pixels run over 0\.\.255: leave out their norm"
    ):
        labelled_images(tf.data.Dataset.from_tensor_slices((IMAGES / 255, LABELS)), (4, 6))
    with pytest.raises(InputError, match="the dataset is empty"):
        calibration_images(dataset.take(0), (4, 6))
    with pytest.raises(InputError, match="cannot verify with a int"):
        labelled_images(3, (4, 6))
