"""TensorFlow's operators against Pillow: a SavedModel and a data service see a file as `predict` does."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.training.decoding import picture
from keras_vit.training.images import decode


def photo(size=(60, 40), mode="RGB"):
    """A smooth picture, different in every corner."""
    coarse = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def content(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def check(data, size=(16, 12)):
    served = picture(tf.constant(data), size).numpy()
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
    image = photo(mode="RGBA")
    image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60), dtype=np.uint8)))
    check(content(image, "PNG"), (40, 60))


def test_sixteen_bits():
    check(content(Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16)), "PNG"))
