"""The SavedModel: its pixel normalisation is inside; what cannot be written."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.saved_model import write_saved_model


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "1 labels for a model with 3 classes: give a list of one name for each"),
        ("abc", "labels must be a list of names, not the text 'abc'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        write_saved_model(ViT("Nano/4", image_size=8, classes=3), tmp_path / "1", labels)
    assert not (tmp_path / "1").exists()


def test_a_model_that_cannot_be_served(tmp_path):
    with pytest.raises(InputError, match=r"only a keras_vit.ViT or MultimodalViT with classes .*, not str"):
        write_saved_model("model.keras", tmp_path / "1")
    with pytest.raises(InputError, match=r"not a ViT without a head"):
        write_saved_model(ViT("Nano/4", image_size=8, classes=None), tmp_path / "1")


def test_a_model_need_not_be_folded(tmp_path):
    """Its own normalisation is inside, whether or not the caller folded it."""
    keras.utils.set_random_seed(1)
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    model = ViT("Nano/4", image_size=8, classes=3, preprocessing=preprocessing)
    model.head.kernel.assign(np.random.default_rng(0).normal(size=model.head.kernel.shape))
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("float32")
    expected = tf.nn.softmax(model((images / 255 - preprocessing["mean"]) / preprocessing["std"]))
    write_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    answer = loaded.signatures["serving_default"](image=tf.constant(images))
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01, "the answers differ between pictures"
