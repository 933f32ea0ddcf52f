"""One picture: any file that people have -> uint8 RGB [height, width, 3], at a given size.

Pillow and NumPy only. Training, prediction and calibration all read pictures through here, so
that they cannot see them differently.
"""

import io
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_vit.config import pair
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


def is_image_name(name):
    """True if `name` looks like a picture: by its suffix, and neither hidden nor made by an archiver.

    `name` may have folders in it; a hidden one (".cache") or "__MACOSX" hides what is below, so
    give a name relative to the data set.
    """
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def decode(source, image_size=None, name=None):
    """The picture in `source` as uint8 RGB [height, width, 3].

    It is turned upright (EXIF orientation); transparency shows white; 16-bit grey is divided by
    257, so that 65535 becomes 255; of an animation the first frame counts.

    Args:
        source: the bytes of a file, or its path.
        image_size: an integer or (height, width) that `fit` brings it to; None leaves its size.
        name: what to call it in an error; by default the path, or "<bytes>".

    Raises:
        InputError: the file is missing or no regular one, no picture, cut short, damaged, or too large to be
            one (Pillow's limit against decompression bombs).
    """
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    name = name or ("<bytes>" if is_bytes else str(source))
    data = bytes(source) if is_bytes else read_regular(source, MAX_FILE, name)
    if not data:
        raise InputError(f"{name!r} is empty: expected a picture.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            rgb = _rgb(_upright(image))
        return np.array(rgb) if image_size is None else fit(rgb, image_size)
    except InputError as error:
        raise InputError(f"{name!r}: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name!r} is not a picture: expected one of {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{name!r} has more than {limit} million pixels: make it smaller first.") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "is truncated" if "truncated" in why.lower() else "is damaged"
        raise InputError(f"{name!r} {what} ({why}): get the whole file again.") from error


def fit(picture, image_size):
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
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
