"""What the header of a JPEG or PNG file says that Pillow passes over, or reads otherwise than TensorFlow.

`decoding.decode` and `tf_decoding.picture` follow these rules, so that both read the same image from a file:

- the orientation is that of EXIF alone: of a JPEG the first APP1 segment that begins with "Exif" (anywhere
  before the picture), of a PNG the first eXIf chunk (anywhere). XMP and text chunks say nothing here;
- the transparent colour of a PNG (tRNS) is compared in the file's own bits, where it is allowed to be: before
  the picture and after the palette, of the right length, once.

Of a file that is damaged, one of the two may refuse what the other still reads (a JPEG without its end
marker, a PNG with more pixels than it says); a server then says so. What both read, both read alike.

JPEG: ITU-T T.81, annex B. PNG: third edition, chapters 5, 11. EXIF: CIPA DC-008, 4.6.2 and 4.6.4.
"""

import dataclasses
import struct
import zlib

MAX_PIXELS = 2**26  # 67 million; TensorFlow's and Pillow's decoders need up to 30 bytes for each
MAX_SIDE = 65_500  # libjpeg's own limit
MAX_PARTS = 10_000  # segments of a JPEG before its picture, chunks of a PNG

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"
EXIF = b"Exif\0\0"
GREY, RGB, PALETTE = 0, 2, 3  # colour types of PNG; the others have alpha


@dataclasses.dataclass(frozen=True)
class PngHeader:
    """Of a PNG: what its pixels mean.

    Attributes:
        depth, colour: bits of a sample, and the colour type, as in IHDR.
        palette: bytes of PLTE, three for each colour; b"" without one.
        transparency: bytes of a valid tRNS; b"" without one.
        orientation: 1 to 8.
        interlaced: 1 for Adam7, else 0.
        packed: the compressed pixels.
        file: the file without the chunks that are no pixels, of which damaged ones shall not matter.
    """

    depth: int
    colour: int
    palette: bytes
    transparency: bytes
    orientation: int
    interlaced: int
    packed: bytes
    file: bytes


def jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG file, 1 to 8; 1 if it has none."""
    at = 2
    for _ in range(MAX_PARTS):
        if at + 4 > len(data):
            break
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF):  # what may stand between segments
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length
            at += 2
        elif marker in (0xD9, 0xDA):  # the end, the picture
            break
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker == 0xE1 and data.startswith(EXIF, at + 4):
                return exif_orientation(data[at + 4 : at + 2 + length])
            at += 2 + length
    return 1


def png_header(data: bytes) -> PngHeader:
    """What a PNG file says of its pixels.

    Raises:
        ValueError: no header, an unknown one or two, another palette than the standard allows, more chunks
            than `MAX_PARTS`, one that must be understood and is not known, or none that ends the file.
    """
    if not data.startswith(PNG + b"\0\0\0\x0dIHDR") or len(data) < 33:
        raise ValueError("no header")
    depth, colour, compression, filtering, interlaced = data[24:29]
    if compression or filtering or interlaced > 1:
        raise ValueError("a way of packing that is not known")
    palette = transparency = exif = b""
    packed: list[bytes | memoryview] = []
    before_picture, after_picture, at = True, False, 33
    kept: list[bytes | memoryview] = [data[:33]]
    for _ in range(MAX_PARTS):
        length, chunk_type = (
            struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (len(data), b"IEND")
        )
        if at + 12 + length > len(data):
            raise ValueError("truncated")
        content = memoryview(data)[at + 8 : at + 8 + length]
        whole = memoryview(data)[at : at + 12 + length]
        after_picture |= not before_picture and chunk_type != b"IDAT"
        if chunk_type == b"IDAT":
            before_picture = False
            if not after_picture:
                kept.append(whole)
                packed.append(content)
        elif chunk_type == b"PLTE":
            if colour == PALETTE:
                if palette or not before_picture or length % 3 or not 0 < length <= 768:
                    raise ValueError("a palette that is not one")
                palette = bytes(content[: 3 * 2**depth])
                kept.append(whole)
        elif chunk_type == b"tRNS" and before_picture and not transparency and _is_sound(data, at, length):
            most = {GREY: 2, RGB: 6, PALETTE: len(palette) // 3}.get(colour, 0)
            if length == most or (colour == PALETTE and length < most):
                transparency = bytes(content)
        elif chunk_type == b"eXIf" and not exif:
            exif = bytes(content)
        elif chunk_type == b"IEND":
            kept.append(END)  # whatever its checksum is
            break
        elif not chunk_type.isalpha() or chunk_type[:1].isupper():
            raise ValueError(f"a chunk {chunk_type!r}")
        at += 12 + length
    else:
        raise ValueError(f"more than {MAX_PARTS} chunks")
    if colour == PALETTE and not palette:
        raise ValueError("no palette")
    return PngHeader(
        depth,
        colour,
        palette,
        transparency,
        exif_orientation(exif),
        interlaced,
        b"".join(packed),
        b"".join(kept),
    )


def _is_sound(data, at, length):
    """Whether the check sum of the chunk at `at` is right: libpng passes over a tRNS where it is not."""
    return data[at + 8 + length : at + 12 + length] == struct.pack(
        ">I", zlib.crc32(data[at + 4 : at + 8 + length])
    )


def exif_orientation(block: bytes) -> int:
    """The orientation in a block of EXIF data, 1 to 8; 1 if it has none, or is damaged.

    It is the first entry 0x0112 of the first directory, one number of type 3 (16 bits).
    """
    block = block.removeprefix(EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", block, 4)
    if start + 2 > len(block):
        return 1
    (count,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, field_type, number, value = struct.unpack_from(order + "HHIH", block, at)
        if tag == 0x0112:
            return value if (field_type, number) == (3, 1) and 1 <= value <= 8 else 1
    return 1
