"""Every form in which a person may hand over pictures gives the same arrays."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.errors import InputError
from keras_vit.export.inputs import calibration_images, labelled_images
from keras_vit.training import load_data

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(300) % 3


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
    for dataset in (single, single.batch(64), one_hot.batch(7)):
        images, labels = labelled_images(dataset, (4, 6))
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
        assert images.dtype == np.uint8
    np.testing.assert_array_equal(calibration_images(single.batch(100), (4, 6)), IMAGES[:256])


def test_a_folder_gives_its_training_part_to_calibrate_and_its_held_out_part_to_verify(folder):
    data = load_data(folder, (4, 6))
    for source in (str(folder), folder, data):
        np.testing.assert_array_equal(calibration_images(source, (4, 6)), data.train.images)
        images, labels = labelled_images(source, (4, 6))
        np.testing.assert_array_equal(images, data.test.images)
        np.testing.assert_array_equal(labels, data.test.labels)


def test_many_images_are_thinned_out_evenly():
    chosen = calibration_images(IMAGES, (4, 6))
    assert len(chosen) == 256
    np.testing.assert_array_equal(chosen[[0, -1]], IMAGES[[0, -1]])


def test_what_cannot_be_used_is_named():
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES)
    with pytest.raises(InputError, match="images but no labels"):
        labelled_images(dataset, (4, 6))
    with pytest.raises(InputError, match=r"not pixels 0\.\.255"):
        labelled_images(tf.data.Dataset.from_tensor_slices((IMAGES / 255, LABELS)), (4, 6))
    with pytest.raises(InputError, match="the dataset is empty"):
        calibration_images(dataset.take(0), (4, 6))
    with pytest.raises(InputError, match="cannot verify with a int"):
        labelled_images(3, (4, 6))
