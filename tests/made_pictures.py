"""PNG and JPEG files written by hand, for what Pillow cannot write; each from the standard's own words."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types: grey, RGB, palette, grey and RGB with alpha
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def rows(samples, depth):
    """Samples [h, w, channels] as the standard packs them, each row behind a filter byte of 0."""
    if not samples.size:  # an empty pass of an interlaced picture
        return b""
    h = len(samples)
    bits = samples.reshape(h, -1, 1) >> np.arange(depth)[::-1] & 1
    packed = np.packbits(bits.reshape(h, -1).astype(np.uint8), axis=1)
    return np.concatenate([np.zeros((h, 1), np.uint8), packed], axis=1).tobytes()


def png(samples, depth, colour, interlace=False, before=(), after=()):
    """A PNG of integer samples [h, w, channels]; `before` and `after` are chunks around its picture."""
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlace else [samples]
    data = zlib.compress(b"".join(rows(part, depth) for part in parts))
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, interlace)
    middle = len(data) // 2
    picture = chunk(b"IDAT", data[:middle]) + chunk(b"IDAT", data[middle:])
    return SIGNATURE + chunk(b"IHDR", head) + b"".join(before) + picture + b"".join(after) + chunk(b"IEND")


def exif(orientation, order="<", entries=1):
    """EXIF data (without "Exif" and its zeros) whose orientation is the last of so many entries."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    ifd = struct.pack(order + "H", entries)
    for i in range(entries - 1):
        ifd += struct.pack(order + "HHIHH", 0x0100 + i, 3, 1, 7, 0)
    ifd += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "I", 8) + ifd + bytes(4)


def segment(marker, content):
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(jpeg, *segments):
    """A JPEG with more segments before its own."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def content(image, kind, **options):
    """The bytes of the file that Pillow makes of an image or array."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()
