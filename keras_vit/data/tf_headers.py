"""The header of a JPEG or PNG file, read by TensorFlow's operators: which decoder it needs, or its error.

Where the reading of a file is not what one expects, `headers` says why.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_vit.data.decoding import MAX_SCALED_PIXELS
from keras_vit.data.headers import EXIF, GREY, JPEG, MAX_PARTS, MAX_PIXELS, MAX_SIDE, PALETTE, PNG, RGB

DAMAGED = "a JPEG or PNG that is damaged or cut short"
# Which of TensorFlow's decoders reads a file, and how: see `tf_decoding.decode`.
DECODE_JPEG, DECODE_OPAQUE, DECODE_PALETTE, DECODE_ALPHA, DECODE_16_BIT = range(5)


class Header(NamedTuple):
    """What is known of a file before it is decoded. All are scalars.

    Attributes:
        decoder: one of the constants above, int32.
        height, width: of the picture, int32.
        orientation: of EXIF, 1 to 8, int32.
        error: why the file will not be decoded, a string; "" if it will.
    """

    decoder: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    error: tf.Tensor


def read_header(content: tf.Tensor, size: tuple[int, int]) -> Header:
    """The `Header` of a file that shall be brought to `size`. It decodes nothing."""
    is_jpeg = _starts_with(content, JPEG)
    is_png = _starts_with(content, PNG)
    none = tf.constant(0)
    decoder, height, width, orientation, error = tf.case(
        [(is_jpeg, lambda: _jpeg_header(content)), (is_png, lambda: _png_header(content))],
        default=lambda: (none, none, none, none + 1, tf.constant("no JPEG or PNG")),
    )
    error = tf.where(tf.equal(tf.strings.length(content), 0), "empty, not a JPEG or PNG", error)
    h, w = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    too_large = (h * w > MAX_PIXELS) | (tf.maximum(h, w) > MAX_SIDE)
    text = tf.strings.format(
        f"{{}}x{{}} pixels are more than {MAX_PIXELS // 10**6} million, or than {MAX_SIDE} a side: make it "
        "smaller first",
        (height, width),
    )
    error = tf.where(tf.equal(error, "") & too_large, text, error)
    swap = orientation > 4
    new = scaled_size(tf.where(swap, w, h), tf.where(swap, h, w), size)
    text = tf.strings.format(
        f"a picture of {{}}x{{}} is too long and thin to fill {size[0]}x{size[1]}: crop it first",
        (height, width),
    )
    is_thin = tf.reduce_prod(new) > MAX_SCALED_PIXELS
    return Header(decoder, height, width, orientation, tf.where(tf.equal(error, "") & is_thin, text, error))


def scaled_size(height: tf.Tensor, width: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """float64 [2]: the whole picture's size after scaling. In float64, so that it rounds as Python does."""
    shape, target = tf.stack([height, width]), tf.constant(size, tf.float64)
    return tf.maximum(target, tf.round(shape * tf.reduce_max(target / shape)))


def _jpeg_header(content):
    """Walk from segment to segment up to the picture: ITU-T T.81, B.1.1, and libjpeg's `next_marker`."""
    end = tf.strings.length(content)

    def step(count, at, frame, exif):
        part = bytes_at(content, at, 10)
        marker = part[1]
        is_marker = (part[0] == 255) & (marker != 0) & (marker != 255)
        is_alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & ~is_one_of(marker, (0xC4, 0xC8, 0xCC))
        is_exif = (marker == 0xE1) & tf.reduce_all(part[4:10] == list(EXIF))
        is_last = is_marker & ((marker == 0xD9) | (marker == 0xDA))
        size = _number(part[2:4])
        frame = tf.where(is_marker & is_frame & (frame < 0), at, frame)
        block = tf.stack([at + 4, tf.minimum(size - 2, end - at - 4)])
        exif = tf.where(is_marker & is_exif & (exif[0] < 0), block, exif)
        after = at + tf.where(is_marker, tf.where(is_alone, 2, 2 + tf.maximum(size, 2)), 1)
        return count + 1, tf.where(is_last, end, after), frame, exif

    count, _, frame, exif = tf.while_loop(
        lambda count, at, *_: (at + 4 <= end) & (count < MAX_PARTS),
        step,
        (0, 2, -1, tf.constant([-1, 0])),
        parallel_iterations=1,
    )
    start = bytes_at(content, tf.maximum(frame, 0), 10)
    marker, bits, colours = start[1], start[4], start[9]
    height, width = _number(start[5:7]), _number(start[7:9])
    error = _first(
        (count >= MAX_PARTS, f"a JPEG with more than {MAX_PARTS} parts before its picture"),
        (frame < 0, DAMAGED),
        (bits != 8, "a JPEG of another depth than 8 bits: save it with 8"),
        (marker >= 0xC9, "a JPEG coded arithmetically: save it as baseline or progressive"),
        (marker > 0xC2, "a lossless or hierarchical JPEG: save it as baseline or progressive"),
        (~is_one_of(colours, (1, 3, 4)), "a JPEG that is neither grey, nor RGB, nor CMYK"),
        ((height == 0) | (width == 0), DAMAGED),
    )
    return tf.constant(DECODE_JPEG), height, width, _orientation(content, exif), error


def _png_header(content):
    """Walk from chunk to chunk: PNG, 5.3."""
    end = tf.strings.length(content)
    head = bytes_at(content, 8, 18)
    is_header = tf.reduce_all(head[:8] == list(b"\0\0\0\x0dIHDR"))
    width, height, depth, colour = _number(head[8:12]), _number(head[12:16]), head[16], head[17]

    def step(count, at, has_key, exif, is_whole):
        size, chunk = tf.unstack(
            tf.io.decode_raw(_sub(content, at, 8), tf.int32, little_endian=False, fixed_length=8)
        )
        is_last, fits = chunk == _name(b"IEND"), (size >= 0) & (size <= end - at - 12)
        exif = tf.where((chunk == _name(b"eXIf")) & (exif[0] < 0), tf.stack([at + 8, size]), exif)
        after = tf.where(is_last | ~fits, end, at + 12 + size)
        return count + 1, after, has_key | (chunk == _name(b"tRNS")), exif, is_last & fits

    count, _, has_key, exif, is_whole = tf.while_loop(
        lambda count, at, *_: (at < end) & (count < MAX_PARTS),
        step,
        (0, 33, False, tf.constant([-1, 0]), False),
        parallel_iterations=1,
    )
    error = _first(
        (count >= MAX_PARTS, f"a PNG with more than {MAX_PARTS} chunks"),
        (~is_header | ~is_whole | (height <= 0) | (width <= 0), DAMAGED),
    )
    has_alpha = has_key | ((colour != GREY) & (colour != RGB))
    decoder = tf.where(has_alpha, DECODE_ALPHA, DECODE_OPAQUE)
    decoder = tf.where(colour == PALETTE, DECODE_PALETTE, tf.where(depth == 16, DECODE_16_BIT, decoder))
    return decoder, height, width, _orientation(content, exif), error


def _orientation(content, place):
    """`headers.exif_orientation` of the bytes at `place` (int32 [2], where and how many; -1 for nowhere)."""
    block = _sub(content, tf.maximum(place[0], 0), tf.maximum(place[1], 0))
    block = tf.strings.substr(block, tf.where(_starts_with(block, EXIF), len(EXIF), 0), -1)
    block = tf.where(place[0] < 0, "", block)
    is_big = _starts_with(block, b"MM\0*")
    is_exif = is_big | _starts_with(block, b"II*\0")

    def number(values):
        """Of bytes [..., n], in the order that the block has."""
        return _number(tf.where(is_big, values, values[..., ::-1]))

    size = tf.strings.length(block)
    start = number(bytes_at(block, 4, 4))
    is_inside = is_exif & (start >= 0) & (start <= size - 2)
    start = tf.where(is_inside, start, 0)
    count = tf.minimum(number(bytes_at(block, start, 2)), tf.maximum(size - start - 2, 0) // 12)
    entries = tf.reshape(bytes_at(block, start + 2, 12 * count), (-1, 12))
    is_it = number(entries[:, :2]) == 0x0112
    # The first of them; a row of zeros where there is none.
    entry = tf.concat([tf.boolean_mask(entries, is_it), tf.zeros((1, 12), tf.int32)], axis=0)[0]
    is_short = (number(entry[2:4]) == 3) & (number(entry[4:8]) == 1)
    value = number(entry[8:10])
    return tf.where(is_inside & is_short & (value >= 1) & (value <= 8), value, 1)


def _sub(content, at, count):
    """`count` bytes at `at`, or what there is of them."""
    return tf.strings.substr(content, tf.minimum(at, tf.strings.length(content)), count)


def bytes_at(content: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """The bytes at `at` as int32 [count], zeros where the file has ended."""
    values = tf.io.decode_raw(_sub(content, at, count), tf.uint8, fixed_length=tf.maximum(count, 1))
    return tf.cast(values[:count], tf.int32)


def _number(values):
    """Bytes [..., n] to int32 [...], the highest first. Of four, from 2^31 on it is negative."""
    n = values.shape[-1]
    return tf.reduce_sum(values * tf.constant([1 << 8 * (n - 1 - i) for i in range(n)]), axis=-1)


def _name(chunk):
    """The name of a PNG chunk as the int32 that `_png_header` reads."""
    return int.from_bytes(chunk, "big")


def _starts_with(content, prefix):
    return tf.equal(tf.strings.substr(content, 0, len(prefix)), prefix)


def is_one_of(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, values))


def _first(*errors):
    """The text of the first condition that holds, "" if none does."""
    error = tf.constant("")
    for condition, text in reversed(errors):
        error = tf.where(condition, text, error)
    return error
