"""Every form in which a person may hand over pictures gives the same arrays."""

import hashlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import ViT
from keras_vit.errors import InputError, Notice
from keras_vit.export.examples import calibration_images, compare_order, labelled_images
from keras_vit.export.quantization.calibration import (
    METHODS,
    Calibration,
    checked_calibration,
    observed_range,
)
from keras_vit.training import load_data

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(300) % 3
MODEL = ViT("Nano/2", image_size=(4, 6), num_classes=3)


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


# What Keras' own reader gives


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Class folders "2" and "10", which Keras sorts as text: pictures of 20 x 30 random pixels."""
    root = tmp_path_factory.mktemp("numbered")
    for i in range(12):
        (root / ("2", "10")[i % 2]).mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("2", "10")[i % 2] / f"{i:02}.png")
    return root


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3", "area"])
@pytest.mark.parametrize("label_mode", ["int", "categorical", "binary"])
def test_what_keras_reads_from_folders(numbered, interpolation, label_mode):
    dataset = keras.utils.image_dataset_from_directory(
        numbered,
        image_size=(16, 12),
        batch_size=5,
        shuffle=False,
        verbose=False,
        interpolation=interpolation,
        label_mode=label_mode,
    )
    assert dataset.class_names == ["10", "2"]
    given = np.concatenate([x for x, _ in dataset])
    assert given.dtype == "float32" and (given % 1).any()
    images, labels = labelled_images(dataset, (16, 12))
    np.testing.assert_array_equal(images, [np.clip(np.rint(x), 0, 255) for x in given])
    expected = [0] * 6 + [1] * 6
    np.testing.assert_array_equal(
        labels.argmax(-1) if label_mode == "categorical" else labels.ravel(), expected
    )
    assert images.dtype == np.uint8
    model = ViT("Nano/4", image_size=(16, 12), num_classes=2)
    found, _ = checked_calibration({"image": calibration_images(dataset, (16, 12))}, model, "mean")
    np.testing.assert_allclose(found["image"], np.clip(given, 0, 255))


def test_other_orders_of_classes_are_said_and_put_right(numbered):
    def read(label_mode):
        options = {"image_size": (20, 30), "shuffle": False, "verbose": False, "label_mode": label_mode}
        return keras.utils.image_dataset_from_directory(numbered, **options)

    ours = load_data(numbered, (20, 30), test_fraction=0.5)
    assert ours.labels == ["2", "10"]
    of_picture = {
        x.tobytes(): int(y)
        for split in (ours.train, ours.test)
        for x, y in zip(split.images, split.labels, strict=True)
    }
    for label_mode in ("int", "categorical", "binary"):
        with pytest.warns(
            Notice, match=r"classes in another order \(number 0 is '10', not '2'\).*renumbered by name"
        ):
            images, labels = labelled_images(read(label_mode), (20, 30), class_names=ours.labels)
        numbers = labels.argmax(-1) if label_mode == "categorical" else labels.ravel()
        assert numbers.tolist() == [of_picture[x.tobytes()] for x in images]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled_images(read("int"), (20, 30), class_names=["10", "2"])
        assert labelled_images(read("int"), (20, 30), class_names=["0", "1"])[1].tolist() == [0] * 6 + [1] * 6
    with pytest.raises(
        InputError, match=r"has the classes 10, 2 \(2\), and the model cat, dog \(2\): give data"
    ):
        labelled_images(read("int"), (20, 30), class_names=["cat", "dog"])
    images, labels = labelled_images(ours, (20, 30), class_names=["2", "10"])
    np.testing.assert_array_equal(labels, ours.test.labels)
    with pytest.warns(Notice, match="another order"):
        np.testing.assert_array_equal(labelled_images(ours, (20, 30), ["10", "2"])[1], 1 - ours.test.labels)
    with pytest.warns(Notice, match=r"another order .*give `labels` in the order in which it was trained"):
        compare_order(read("int"), ["2", "10"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_order(read("int"), ["10", "2"])
        compare_order(IMAGES, ["10", "2"])
        compare_order(None, ["10", "2"])


@pytest.mark.parametrize(
    ("scaled", "message"),
    [
        (lambda x: x / 255, "run from 0 to 1, but pixels run over"),
        (lambda x: x / 127.5 - 1, "run from -1 to 1, but"),
        (lambda x: (x - 120) / 60, "run from -2"),
        (lambda x: x / 255 * 1.2 - 0.1, "run from -0.1 to 1.1"),
        (lambda x: x - 120, "run from -120 to 135"),
        (lambda x: x - 40, "run from -40 to 215"),
        (lambda x: x * 2, "run from 0 to 510"),
        (lambda x: np.where(x > 250, np.nan, x), "contain NaN or infinity"),
    ],
)
def test_pixels_on_another_scale_are_refused(scaled, message):
    images = scaled(IMAGES.astype("float32")).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(50)
    with pytest.raises(InputError, match=f"the dataset's images {message}"):
        labelled_images(dataset, (4, 6))
    with pytest.raises(InputError, match=f"calibration images {message}"):
        checked_calibration({"image": calibration_images(dataset, (4, 6))}, MODEL, "mean")


def test_datasets_that_cannot_be_read():
    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    with pytest.raises(InputError, match=r"has no end: leave out its repeat\(\)"):
        labelled_images(pairs.repeat(), (4, 6))
    assert len(calibration_images(pairs.repeat(), (4, 6))) == 256, "takes the first ones"
    with pytest.raises(InputError, match="an element of the dataset is a dict: give one of images"):
        labelled_images(pairs.map(lambda x, y: {"image": x, "label": y}), (4, 6))
    with pytest.raises(InputError, match=r"an element of the dataset is uint8 \[4, 6\] and int64 \[\]: give"):
        labelled_images(pairs.map(lambda x, y: (x[..., 0], y)), (4, 6))
    sizes = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((4 + i, 6, 3), "uint8"), i) for i in range(2)),
        output_signature=(tf.TensorSpec((None, None, 3), "uint8"), tf.TensorSpec((), "int64")),
    )
    with pytest.raises(
        InputError, match=r"has pictures of \[4, 6, 3\] and of \[5, 6, 3\]: bring them to one size"
    ):
        labelled_images(sizes, (4, 6))
