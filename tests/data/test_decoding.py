"""One picture: every mode and every kind of damage, by value."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from keras_vit.data import decoding
from keras_vit.data.decoding import decode, fit, is_image_name
from keras_vit.errors import InputError


def encoded(picture, kind="png", **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def bilinear(x, new):
    """Antialiased bilinear resize of the first axis, from the definition, in float64."""
    old = len(x)
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new
    weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / stretch)
    return np.tensordot(weights / weights.sum(1, keepdims=True), x.astype(np.float64), 1)


def test_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "import keras_vit.data.decoding, keras_vit.data.image_data"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tiff"])
def test_lossless_formats_from_bytes_and_from_a_path(kind, tmp_path):
    x = noise(5, 7)
    (tmp_path / "x").write_bytes(encoded(x, kind))
    got = decode(tmp_path / "x")
    assert got.dtype == np.uint8 and got.flags.writeable
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(decode(encoded(x, kind)), x)
    np.testing.assert_array_equal(decode(str(tmp_path / "x")), x)


# EXIF 2.32, table 5: orientation -> what turns the stored pixels upright.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    x = noise(16, 24)
    plain, turned = encoded(x, "jpeg"), encoded(x, "jpeg", exif=exif)
    np.testing.assert_array_equal(decode(turned), UPRIGHT[orientation](decode(plain)))


def test_damaged_exif_leaves_the_picture_as_it_is():
    x = noise(16, 24)
    got = decode(encoded(x, "jpeg", exif=b"Exif\0\0" + b"rubbish!" * 4))
    np.testing.assert_array_equal(got, decode(encoded(x, "jpeg")))
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n4\nrubbish!")
    np.testing.assert_array_equal(decode(encoded(x, pnginfo=info)), x)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.array([[0, 128, 129, 257], [255, 25700, 65406, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1], [1, 100, 254, 255]], np.uint8)
    np.testing.assert_array_equal(decode(encoded(ramp, kind)), np.repeat(expected[..., None], 3, -1))


def test_32_bit_integers():
    x = np.array([[-5, 0, 65535, 70000]], np.int32)
    assert decode(encoded(x, "tiff"))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_floating_point_is_refused():
    with pytest.raises(InputError, match=r"^'<bytes>': floating-point pixels .* 8 or 16 bits\.$"):
        decode(encoded(np.zeros((2, 2), np.float32), "tiff"))


def test_cmyk_red_is_red():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg")
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 3


def test_grey_and_one_bit():
    grey = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(decode(encoded(grey)), np.repeat(grey[..., None], 3, -1))
    bits = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
    assert decode(encoded(bits)).tolist() == [[[0] * 3, [255] * 3, [0] * 3]]


def test_transparency_shows_white():
    rgba = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]], np.uint8)
    # a fifth of the colour and four fifths of white
    assert decode(encoded(rgba)).tolist() == [[[255, 255, 255], [200, 100, 0], [244, 224, 204]]]
    la = Image.fromarray(np.array([[[0, 0], [0, 255], [0, 51]]], np.uint8), "LA")
    assert decode(encoded(la)).tolist() == [[[255] * 3, [0] * 3, [204] * 3]]


def test_palettes_and_a_transparent_colour():
    p = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    p.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encoded(p)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert decode(encoded(p, transparency=0)).tolist() == [[[255] * 3, [0, 0, 255]]]
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert decode(encoded(rgb, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_truncated_file(kind, tmp_path):
    data = encoded(noise(64, 64), kind)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.jpg' is truncated \(.*\): get the whole file again\.$"):
        decode(tmp_path / "cut.jpg")
    with pytest.raises(InputError, match=r"^'<bytes>' is truncated"):
        decode(data[: len(data) // 2])


def test_a_damaged_png():
    data = bytearray(encoded(noise(64, 64)))
    data[200:400] = bytes(200)
    with pytest.raises(InputError, match=r"^'<bytes>' is (damaged|truncated)"):
        decode(data)


def test_what_is_no_picture(tmp_path):
    with pytest.raises(InputError, match=r"^'<bytes>' is not a picture: expected one of JPEG, PNG,"):
        decode(b"hello")
    with pytest.raises(InputError, match=r"^'<bytes>' is empty"):
        decode(b"")
    with pytest.raises(InputError, match=r"none\.jpg' cannot be read: No such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        decode(tmp_path)
    with pytest.raises(InputError, match=r"^'a/b\.jpg' is not a picture"):
        decode(b"hello", name="a/b.jpg")


def test_programs_are_not_started_for_a_file():
    with pytest.raises(InputError, match="is not a picture"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def test_a_decompression_bomb(monkeypatch):
    data = encoded(Image.new("1", (1500, 1500)))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 2 * 10**6)
    with pytest.raises(InputError, match=r"more than 2 million pixels, or 65500 a side: make it smaller"):
        decode(data)
    # Pillow's own limit is further up.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    with pytest.raises(InputError, match="more than 2 million pixels"):
        decode(data)


def test_a_tile_far_larger_than_its_picture():
    """libtiff needs a whole tile, whatever the size of the picture: 400 MB for these 100 pixels."""

    def tiff(tile):
        data = zlib.compress(bytes(tile * tile if tile < 100 else 100))
        tags = {
            256: 10,
            257: 10,
            258: 8,
            259: 8,
            262: 1,
            277: 1,
            322: tile,
            323: tile,
            324: 8,
            325: len(data),
        }
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        start = struct.pack("<I", 8 + len(data))
        return b"II*\0" + start + data + struct.pack("<H", len(tags)) + entries + bytes(4)

    assert not decode(tiff(16)).any()
    with pytest.raises(InputError, match="more than 67 million pixels"):
        decode(tiff(20_000))


def test_fit_by_hand():
    # 2 x 6 into 2 x 2: nothing to scale, new size 2 x 6, left = (6 - 2) // 2 = 2.
    x = noise(2, 6)
    np.testing.assert_array_equal(fit(x, 2), x[:, 2:4])
    # 2 x 3 into 4 x 4: scale 2, new size 4 x 6, left 1. Columns 1..4 of the six have their centres
    # at 0.75, 1.25, 1.75, 2.25 old pixels: a quarter or three quarters between two old columns.
    row = np.array([0, 100, 200], np.uint8)
    x = np.broadcast_to(row[None, :, None], (2, 3, 3)).copy()
    assert fit(x, 4)[:, :, 0].tolist() == [[25, 75, 125, 175]] * 4
    # An odd remainder: 1 x 4 into 1 x 1, left = 3 // 2 = 1.
    x = noise(1, 4)
    np.testing.assert_array_equal(fit(x, 1), x[:, 1:2])


@pytest.mark.parametrize(
    ("h", "w", "size"), [(37, 61, (16, 16)), (61, 37, (16, 24)), (9, 14, (20, 20)), (100, 3, (5, 7))]
)
def test_fit_is_the_rule_in_its_docstring(h, w, size):
    x = noise(h, w)
    height, width = size
    scale = max(height / h, width / w)
    new_h, new_w = max(height, round(h * scale)), max(width, round(w * scale))
    y = bilinear(bilinear(x, new_h).swapaxes(0, 1), new_w).swapaxes(0, 1)
    top, left = (new_h - height) // 2, (new_w - width) // 2
    expected = y[top : top + height, left : left + width]
    got = fit(x, size)
    assert got.shape == (*size, 3)
    # Pillow rounds to uint8 after each of the two axes.
    assert np.abs(got - expected).max() <= 1.1
    np.testing.assert_array_equal(decode(encoded(x), size), got)
    np.testing.assert_array_equal(fit(Image.fromarray(x), size), got)


def test_fit_leaves_the_right_size_alone():
    x = noise(6, 8)
    assert fit(x, (6, 8)) is x
    np.testing.assert_array_equal(fit(Image.fromarray(x), (6, 8)), x)


def test_fit_refuses_what_it_cannot_fit(monkeypatch):
    with pytest.raises(InputError, match=r"expected a uint8 picture \[h, w, 3\], not float64 \[4, 4, 3\]"):
        fit(np.zeros((4, 4, 3)), 2)
    with pytest.raises(InputError, match=r"not uint8 \[4, 4\]"):
        fit(np.zeros((4, 4), np.uint8), 2)
    with pytest.raises(InputError, match="image_size must be a positive integer"):
        fit(noise(4, 4), 0)
    monkeypatch.setattr(decoding, "MAX_SCALED_PIXELS", 1000)
    assert fit(noise(2, 10), 10).shape == (10, 10, 3)  # 10 x 50
    with pytest.raises(InputError, match="a picture of 1x200 is too long and thin to fill 10x10"):
        fit(noise(1, 200), 10)


def test_is_image_name():
    assert all(map(is_image_name, ["a.jpg", "A.JPEG", "x/y/b.Png", "c.tif", "d.pgm", "e.WebP", "a.b.bmp"]))
    bad = ["a.txt", "jpg", "a.jpg.zip", ".a.jpg", "._a.jpg", ".cache/a.jpg", "__MACOSX/a/b.jpg", "Thumbs.db"]
    assert not any(map(is_image_name, bad))
