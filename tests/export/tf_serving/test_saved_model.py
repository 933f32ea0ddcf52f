"""The SavedModel: its pixel normalisation is inside; what cannot be written."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_pictures import content

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.tf_serving.saved_model import write_saved_model


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "1 labels for a model with 3 classes: give a list of one name for each"),
        ("abc", "labels must be a list of names, not the text 'abc'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        write_saved_model(ViT("Nano/4", image_size=8, num_classes=3), tmp_path / "1", labels)
    assert not (tmp_path / "1").exists()


def test_a_model_that_cannot_be_served(tmp_path):
    with pytest.raises(InputError, match=r"only a keras_vit.ViT or MultimodalViT with classes .*, not str"):
        write_saved_model("model.keras", tmp_path / "1")
    with pytest.raises(InputError, match=r"not a ViT without a head"):
        write_saved_model(ViT("Nano/4", image_size=8, num_classes=None), tmp_path / "1")


def test_a_model_need_not_be_folded(tmp_path):
    """Its own normalisation is inside, whether or not the caller folded it."""
    keras.utils.set_random_seed(1)
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    model = ViT("Nano/4", image_size=8, num_classes=3, preprocessing=preprocessing)
    model.head.kernel.assign(np.random.default_rng(0).normal(size=model.head.kernel.shape))
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")
    expected = tf.nn.softmax(model((images / 255 - preprocessing["mean"]) / preprocessing["std"]))
    write_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    answer = loaded.signatures["serving_default"](image=tf.constant(images))
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01, "the answers differ between pictures"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A SavedModel whose answers depend on the picture. Keep it: its signatures do not own the weights."""
    keras.utils.set_random_seed(2)
    model = ViT("Nano/4", image_size=8, num_classes=3)
    model.head.kernel.assign(np.random.default_rng(0).normal(0, 0.1, size=model.head.kernel.shape))
    folder = tmp_path_factory.mktemp("small") / "1"
    write_saved_model(model, folder, ["a", "b", "c"])
    return tf.saved_model.load(str(folder))


def pictures(n):
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_serve_bytes_safe_answers_the_good_and_marks_the_bad(small):
    png = [content(picture, "PNG") for picture in pictures(3)]
    files = [png[0], b"", png[1], b"hello", png[2][:-20], png[2], content(pictures(1)[0], "BMP")]
    errors = ["", "empty", "", "no JPEG or PNG", "damaged or cut short", "", "no JPEG or PNG"]
    answer = small.signatures["serve_bytes_safe"](image_bytes=tf.constant(files))
    for error, text in zip(answer["error"].numpy(), errors, strict=True):
        assert text.encode() in error and bool(error) == bool(text)
    good = np.array([not text for text in errors])
    np.testing.assert_array_equal(answer["valid"], good)
    direct = small.signatures["serving_default"](image=tf.constant(pictures(3), tf.float32))
    assert np.ptp(direct["probability"], axis=0).max() > 0.01, "the pictures are told apart"
    for name, expected in direct.items():
        if expected.dtype == tf.string:
            assert answer[name].numpy()[good].tolist() == expected.numpy().tolist()
            assert set(answer[name].numpy()[~good].reshape(-1)) == {b""}
        else:
            np.testing.assert_allclose(answer[name].numpy()[good], expected, atol=1e-6)
            assert not answer[name].numpy()[~good].any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "item 1: empty, not a JPEG or PNG"),
        (b"hello", "item 1: no JPEG or PNG"),
        (content(pictures(1)[0], "PNG")[:-20], "item 1: a JPEG or PNG that is damaged or cut short"),
        (content(pictures(1)[0], "JPEG")[:200], "item 1: a JPEG or PNG that is damaged or cut short"),
    ],
)
def test_serve_bytes_names_the_bad_item(small, bad, message):
    good = content(pictures(1)[0], "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        small.signatures["serve_bytes"](image_bytes=tf.constant([good, bad, good, bad]))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(small, number):
    images = pictures(4).astype("float32")
    images[2, 3, 4, 1] = number
    with pytest.raises(tf.errors.InvalidArgumentError, match="item 2: NaN or infinity in image"):
        small.signatures["serving_default"](image=tf.constant(images))


def test_an_answer_that_is_none_is_refused(tmp_path):
    model = ViT("Nano/4", image_size=8, num_classes=3)
    model.head.kernel.assign(np.random.default_rng(0).normal(0, 1e38, model.head.kernel.shape))
    write_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="item 0: numbers too large for an answer"):
        loaded.signatures["serving_default"](image=tf.constant(pictures(2), tf.float32))
    answer = loaded.signatures["serve_bytes_safe"](image_bytes=tf.constant([content(pictures(1)[0], "PNG")]))
    assert not answer["valid"][0] and b"numbers too large" in answer["error"].numpy()[0]
    assert not answer["probability"].numpy().any()


def test_a_batch_of_nothing_is_answered_with_nothing(small):
    for name, signature in small.signatures.items():
        none = (
            {"image": tf.zeros((0, 8, 8, 3))}
            if name == "serving_default"
            else {"image_bytes": tf.constant([], tf.string)}
        )
        answer = signature(**none)
        assert answer["probability"].shape == (0, 3) and answer["label"].shape == (0,)
