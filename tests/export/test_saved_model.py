"""The SavedModel's own decoder against Pillow's: TF Serving sees a file as `predict` and training do."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export.saved_model import _picture, write_saved_model
from keras_vit.training.images import decode


def photo(size=(60, 40), mode="RGB"):
    """A smooth picture, different in every corner."""
    coarse = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def content(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def check(data, size=(16, 12)):
    served = _picture(tf.constant(data), size).numpy()
    expected = decode(data, size).astype("float32")
    assert served.shape == expected.shape
    # One decoder or resize rounds a half up where the other rounds it down.
    assert np.abs(served - expected).max() <= 2
    return expected


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation, order):
    exif = Image.Exif()
    exif.endian = {"II": "<", "MM": ">"}[order]
    exif[0x010E] = "a description that comes before"
    exif[0x0112] = orientation
    given = check(content(photo(), "JPEG", quality=95, exif=exif.tobytes()))
    if orientation > 1:
        upright = check(content(photo(), "JPEG", quality=95))
        assert np.abs(given - upright).max() > 20, "the orientation matters for this picture"


def test_a_nonsense_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    check(content(photo(), "JPEG", quality=95, exif=exif.tobytes()))


@pytest.mark.parametrize("size", [(16, 12), (60, 40), (9, 33), (121, 77)])
def test_sizes_are_covered_and_cropped_in_the_same_way(size):
    for shape in ((60, 40), (40, 61), (16, 16), (7, 90)):
        check(content(photo(shape), "PNG"), size)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "L"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "L"), ("PNG", "1"), ("JPEG", "CMYK")],
)
def test_modes(kind, mode):
    check(content(photo(mode=mode), kind))


def test_transparency_is_on_white():
    picture = photo(mode="RGBA")
    picture.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60), dtype=np.uint8)))
    check(content(picture, "PNG"), (40, 60))


def test_sixteen_bits():
    check(content(Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16)), "PNG"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "1 labels for a model with 3 classes: give a list of one name for each"),
        ("abc", "the text 'abc' for a model with 3 classes"),
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
