"""One picture: any file that people have -> uint8 RGB [height, width, 3], at a given size.

Pillow and NumPy only. Training, prediction and calibration all read pictures through here, so
that they cannot see them differently.
"""

import io
import struct
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_vit.config import pair
from keras_vit.data import headers
from keras_vit.data.headers import MAX_PIXELS, MAX_SIDE
from keras_vit.errors import InputError
from keras_vit.files import read_regular

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),  # all are JPEG files
    *(".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Only these readers may look at a file. Pillow has others that start programs (EPS), or that cannot tell by
# its first bytes whether a file is theirs (TGA, PCX), and would make a picture of any damaged one.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "PPM")
MAX_FILE = 2**29  # bytes; no picture is larger, but a bomb or a disk image is
MAX_SCALED_PIXELS = 2**27
LUMA = (19595, 38470, 7471)  # of 65536: what Pillow makes grey of red, green and blue by
# Of an EXIF orientation: what turns the picture upright.
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where the passes of an interlaced PNG begin, x and y, and their steps: PNG, 8.2.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def is_image_name(name: str) -> bool:
    """True if `name` looks like a picture: by its suffix, and neither hidden nor made by an archiver.

    `name` may have folders in it; a hidden one (".cache") or "__MACOSX" hides what is below, so
    give a name relative to the data set.
    """
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def decode(
    source: str | Path | bytes | bytearray | memoryview,
    image_size: int | tuple[int, int] | None = None,
    name: str | None = None,
) -> np.ndarray:
    """The picture in `source` as uint8 RGB [height, width, 3].

    It is turned upright (EXIF orientation); transparency shows white; 16-bit grey is divided by
    257, so that 65535 becomes 255, and of 16-bit colours the upper 8 bits count; of an animation the
    first frame counts; colour profiles and gamma are passed over. `tf_decoding.picture` is the same in
    TensorFlow's operators.

    Args:
        source: the bytes of a file, or its path.
        image_size: an integer or (height, width) that `fit` brings it to; None leaves its size.
        name: what to call it in an error; by default the path, or "<bytes>".

    Raises:
        InputError: the file is missing or no regular one, no picture, cut short, damaged, or larger than
            `MAX_PIXELS` (which is found before it is decoded).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name, data = name or "<bytes>", bytes(source)
    else:
        name = name or str(source)
        data = read_regular(source, MAX_FILE, name)
    if not data:
        raise InputError(f"{name!r} is empty: expected a picture.")
    try:
        header = headers.png_header(data) if data.startswith(headers.PNG) else None
        data = data if header is None else header.file
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            rgb = _upright_rgb(image, data, header)
        return np.array(rgb) if image_size is None else fit(rgb, image_size)
    except InputError as error:
        raise InputError(f"{name!r}: {error}") from error
    except UnidentifiedImageError as error:
        if data.startswith((headers.JPEG, headers.PNG)):
            raise InputError(f"{name!r} is damaged (in its header): get the whole file again.") from error
        raise InputError(f"{name!r} is not a picture: expected one of {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r}: {_too_large()}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "is truncated" if "truncated" in why.lower() else "is damaged"
        raise InputError(f"{name!r} {what} ({why}): get the whole file again.") from error


def fit(picture: np.ndarray | Image.Image, image_size: int | tuple[int, int]) -> np.ndarray:
    """`picture` scaled to cover `image_size`, its aspect ratio kept, and cropped in the centre.

    With the picture h x w and the target H x W, in float64, `round` to the nearest integer and
    halves to the even one (Python, NumPy and tf.round agree):

        scale = max(H / h, W / w)
        new_h, new_w = max(H, round(h * scale)), max(W, round(w * scale))
        resize to new_h x new_w: bilinear, antialiased (a triangle as wide as the scale asks),
            half-pixel centres, result rounded to uint8
        top, left = (new_h - H) // 2, (new_w - W) // 2
        crop [top : top + H, left : left + W]

    Whoever resizes elsewhere (the SavedModel) must do the same; tf.image.resize(..., "bilinear",
    antialias=True) and tf.round agree with this to 1 of 255, as Pillow rounds after each axis.
    A picture that already has the size comes back unchanged.

    Args:
        picture: uint8 RGB [h, w, 3], or a Pillow image of any mode.
        image_size: an integer or (H, W).

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: another kind of array, or a picture so long and thin that scaling it to
            cover would take more than `MAX_SCALED_PIXELS`.
    """
    height, width = pair(image_size, "image_size")
    if isinstance(picture, Image.Image):
        image = _rgb(picture)
    else:
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise InputError(f"expected a uint8 picture [h, w, 3], not {array.dtype} {list(array.shape)}.")
        if array.shape[:2] == (height, width):
            return array
        image = Image.fromarray(array)

    w, h = image.size
    if (h, w) == (height, width):
        return np.array(image)
    scale = max(height / h, width / w)
    new_h, new_w = max(height, round(h * scale)), max(width, round(w * scale))
    if new_h * new_w > MAX_SCALED_PIXELS:
        raise InputError(
            f"a picture of {h}x{w} is too long and thin to fill {height}x{width}: crop it first."
        )
    image = image.resize((new_w, new_h), Image.Resampling.BILINEAR)
    top, left = (new_h - height) // 2, (new_w - width) // 2
    return np.array(image.crop((left, top, left + width, top + height)))


def to_channels(pictures: np.ndarray, channels: int) -> np.ndarray:
    """RGB uint8 [..., 3] as a model of so many channels takes it: as it is for 3, grey [..., 1] for 1.

    Grey is the luma of ITU-R BT.601 in Pillow's fixed point (its "L"); a grey picture keeps its values.

    Raises:
        InputError: another number of channels, which no picture file has.
    """
    if channels == 3:
        return pictures
    if channels != 1:
        raise InputError(
            f"a model of {channels} channels takes no picture files, which have 3 or 1: from Python give it "
            f"arrays uint8 [N, height, width, {channels}]."
        )
    grey = pictures.astype("uint32") @ np.array(LUMA, "uint32")
    return ((grey + 32768) >> 16).astype("uint8")[..., np.newaxis]


def _check_size(image):
    """Refuse, by its header, a picture that would take too much memory."""
    width, height = image.size
    tile = 1
    if image.format == "TIFF":  # libtiff needs a whole tile, be the picture ever so small
        tile = max(1, image.tag_v2.get(322, 1)) * max(1, image.tag_v2.get(323, 1))
    if max(width * height, tile) > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(_too_large())


def _too_large():
    return (
        f"it has more than {MAX_PIXELS // 10**6} million pixels, or {MAX_SIDE} a side: make it smaller first."
    )


def _upright_rgb(image, data, header):
    """An opened picture as RGB, upright. `data` are the bytes of its file, `header` is that of a PNG."""
    image.load()
    if header is not None:
        _check_whole(image, header)
        rgb, orientation = _png(image, header, data), header.orientation
    elif data.startswith(headers.JPEG):
        rgb, orientation = _jpeg(image), headers.jpeg_orientation(data)
    else:
        return _rgb(_upright(image))
    return rgb if orientation == 1 else rgb.transpose(TURN[orientation])


def _check_whole(image, header):
    """Refuse a PNG whose pixels end early: Pillow leaves the rest black, and says nothing."""
    if np.asarray(image)[-1].any() and not header.interlaced:
        return  # rows are written from the top
    width, height = image.size
    bits = header.depth * {headers.GREY: 1, headers.RGB: 3, headers.PALETTE: 1, 4: 2, 6: 4}[header.colour]
    passes = ADAM7 if header.interlaced else [(0, 0, 1, 1)]
    sides = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes]
    wanted = sum(h * (1 + (w * bits + 7) // 8) for w, h in sides if w > 0 and h > 0)
    if len(zlib.decompressobj().decompress(header.packed, wanted)) < wanted:
        raise ValueError("truncated pixels")


def _jpeg(image):
    if image.mode != "CMYK":
        return _rgb(image)
    # Pillow turns all inks around, as Adobe's files ask for; without Adobe's mark, they are not.
    light = np.asarray(image)
    if "adobe_transform" in image.info:
        light = 255 - light
    rgb = light[..., :3].astype(np.uint16) * light[..., 3:] // 255  # as TensorFlow does it
    return Image.fromarray(rgb.astype(np.uint8))


def _png(image, header, data):
    """RGB by the standard: Pillow does not compare a transparent colour in the bits of the file."""
    image.info.pop("transparency", None)  # Pillow's own reading of it, which `_rgb` would follow
    key = header.transparency
    if header.colour == headers.PALETTE:
        colours = np.zeros((256, 3), np.uint8)  # a colour that is not in the palette is black
        colours.reshape(-1)[: len(header.palette)] = np.frombuffer(header.palette, np.uint8)
        alpha = np.full(256, 255, np.uint8)
        alpha[: len(key)] = np.frombuffer(key, np.uint8)
        rgba = Image.fromarray(np.concatenate([colours, alpha[:, None]], axis=1)[None])
        return Image.fromarray(np.asarray(_on_white(rgba))[0][np.asarray(image)])
    if header.colour not in (headers.GREY, headers.RGB):
        return _on_white(image.convert("RGBA"))

    rgb = _rgb(image)
    if not key:
        return rgb
    key = np.array(struct.unpack(f">{len(key) // 2}H", key))
    if header.depth == 16:
        transparent = _wide(image, header, data) == key
    else:
        most = 2**header.depth - 1
        # Pillow has made 0..255 of the samples, and three equal channels of one.
        transparent = np.asarray(rgb) == (key & most) * 255 // most
    pixels = np.array(rgb)
    pixels[transparent.all(axis=-1)] = 255
    return Image.fromarray(pixels)


def _wide(image, header, data):
    """uint16 [h, w, channels] of a PNG of 16 bits."""
    upper = np.asarray(image)
    if header.colour == headers.GREY:
        return upper[..., None]
    # Pillow keeps one byte of each sample. Read from the other end, it is the lower one.
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        return upper.astype(np.uint16) << 8 | np.asarray(again)


def _on_white(image):
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data in a sound picture: it says nothing about the orientation
        return image


def _rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, I: Pillow's own conversion clips at 255
        grey = (np.clip(np.asarray(image).astype(np.int64), 0, 65535) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError("floating-point pixels have no known range: save it with 8 or 16 bits.")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")
