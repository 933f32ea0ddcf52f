"""Pictures in TensorFlow's operators, for where no Python runs: in a SavedModel, on a data service.

The pictures are those of `decoding.decode`; one that is resized may differ by 1 of 255, see `decoding.fit`.
Only JPEG and PNG: TensorFlow has no decoders for the others, or none that agree with Pillow's.

    header = read_header(content, size)     # the kind, and why it will not be read; cheap
    image = decode(content, header)         # uint8 [h, w, 3]
    image = fit(image, header.orientation, size)

Where the reading of a file is not what one expects, `headers` says why.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_vit.data.decoding import LUMA, MAX_SCALED_PIXELS
from keras_vit.data.headers import EXIF, GREY, JPEG, MAX_PARTS, MAX_PIXELS, MAX_SIDE, PALETTE, PNG, RGB

AT_ONCE = 8  # files of a batch in work, as far as the server's threads allow
LARGE = 2**24  # pixels; larger pictures are decoded one by one, for the memory they need
BAND = 2**20  # pixels of a picture that are put on white at a time, for the same reason
DAMAGED = "a JPEG or PNG that is damaged or cut short"
# Kinds: each has a way of its own through TensorFlow's decoders.
IS_JPEG, IS_OPAQUE, IS_PALETTE, HAS_ALPHA, IS_WIDE = range(5)


class Header(NamedTuple):
    """Scalars: one of the kinds above, int32; height, width and EXIF orientation, int32; and why the file
    will not be decoded, a string, "" if it will."""

    kind: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    error: tf.Tensor


def picture(content: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The bytes of a JPEG or PNG file to float32 [H, W, 3] in 0..255, by the rule of `decoding.fit`.

    Raises:
        tf.errors.InvalidArgumentError: no JPEG or PNG, too large, damaged; when it runs.
    """
    header = read_header(content, size)
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(header.error, ""), [header.error])]):
        content = tf.identity(content)
    return fit(decode(content, header), header.orientation, size)


def pictures(
    contents: tf.Tensor, size: tuple[int, int], optional: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch of files, decoded in parallel, of which some may be bad.

    Args:
        contents: string [N], JPEG or PNG files.
        size: (H, W).
        optional: the empty string is a black picture.

    Returns:
        float32 [N, H, W, 3] in 0..255, zeros for a bad file; and string [N], why it is bad, or "".
    """
    header = tf.map_fn(
        lambda content: read_header(content, size),
        contents,
        fn_output_signature=Header(*4 * [tf.TensorSpec((), tf.int32)], tf.TensorSpec((), tf.string)),
        parallel_iterations=AT_ONCE,
    )
    is_good = tf.equal(header.error, "")
    is_large = header.height * header.width > LARGE

    @tf.function(autograph=False)  # traced once for both data sets
    def read(index, content, header):
        return index, fit(decode(content, header), header.orientation, size)

    def found(which, at_once):
        # No operator catches the error of another, but a data set can go on after one.
        some = tf.data.Dataset.from_tensor_slices(tf.where(which)[:, 0])
        some = some.map(lambda i: read(i, contents[i], Header(*(x[i] for x in header))), at_once, False)
        return some.ignore_errors()

    count = tf.size(contents, tf.int64)
    # One more than there are, since a data set that gives a batch must not be empty.
    images = found(is_good & ~is_large, AT_ONCE).concatenate(found(is_good & is_large, 1))
    images = images.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros((*size, 3)))))
    options = tf.data.Options()
    options.autotune.enabled = False  # it would cost a thread for each request
    index, images = images.with_options(options).batch(count + 1).get_single_element()
    index = index[:, None]
    images = tf.scatter_nd(index, images, tf.stack([count + 1, *size, 3]))[:count]
    is_read = tf.scatter_nd(index, tf.ones_like(index[:, 0], tf.int32), count[None] + 1)[:count] > 0
    errors = tf.where(is_good & ~is_read, DAMAGED, header.error)
    if optional:
        errors = tf.where(tf.equal(tf.strings.length(contents), 0), "", errors)
    return tf.ensure_shape(images, (None, *size, 3)), errors


def to_channels(pictures: tf.Tensor, channels: int) -> tf.Tensor:
    """RGB float32 [..., 3], whole numbers, for a model of so many channels: as `decoding.to_channels`."""
    if channels == 3:
        return pictures
    grey = tf.reduce_sum(tf.cast(pictures, tf.int32) * tf.constant(LUMA), axis=-1, keepdims=True)
    return tf.cast((grey + 32768) // 65536, tf.float32)


def read_header(content: tf.Tensor, size: tuple[int, int]) -> Header:
    """The `Header` of a file that shall be brought to `size`. It decodes nothing."""
    is_jpeg = _starts_with(content, JPEG)
    is_png = _starts_with(content, PNG)
    none = tf.constant(0)
    kind, height, width, orientation, error = tf.case(
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
    new = _new_shape(tf.where(swap, w, h), tf.where(swap, h, w), size)
    text = tf.strings.format(
        f"a picture of {{}}x{{}} is too long and thin to fill {size[0]}x{size[1]}: crop it first",
        (height, width),
    )
    is_thin = tf.reduce_prod(new) > MAX_SCALED_PIXELS
    return Header(kind, height, width, orientation, tf.where(tf.equal(error, "") & is_thin, text, error))


def decode(content: tf.Tensor, header: Header) -> tf.Tensor:
    """A file to uint8 [h, w, 3], not turned yet. Its header must have no error."""

    def png(channels, dtype=tf.uint8):
        return tf.io.decode_png(content, channels=channels, dtype=dtype)

    def palette():
        pixels = png(0)  # four channels if a transparency is there that libpng takes, else three
        has_alpha = tf.equal(tf.shape(pixels)[2], 4)
        return tf.cond(has_alpha, lambda: _by_bands(_on_white, pixels), lambda: pixels[..., :3])

    def alpha(rows):
        # Of grey of fewer than 8 bits without transparency, TensorFlow makes an alpha of 2^depth - 1.
        grey = tf.where(rows[..., 3:] > 0, rows[..., :3], tf.constant(255, tf.uint8))
        return tf.where(is_grey, grey, _on_white(rows))

    def wide(rows):
        rows = tf.cast(rows, tf.int32)
        # Grey is divided by 257, to the nearest; of the others the upper byte counts.
        rows = tf.where(is_grey, rows * 255 + 32895, tf.bitwise.left_shift(rows, 8))
        return _on_white(tf.cast(tf.bitwise.right_shift(rows, 16), tf.uint8))

    is_grey = tf.equal(_bytes(content, 25, 1)[0], GREY)  # its colour type, if it is a PNG
    # The accurate transform is Pillow's default; TensorFlow's is a faster, coarser one.
    ways = {
        IS_JPEG: lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        IS_OPAQUE: lambda: png(3),
        IS_PALETTE: palette,
        HAS_ALPHA: lambda: _by_bands(alpha, png(4)),
        IS_WIDE: lambda: _by_bands(wide, png(4, tf.uint16)),
    }
    return tf.ensure_shape(tf.switch_case(header.kind, ways), (None, None, 3))


def fit(image: tf.Tensor, orientation: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 [h, w, 3] to float32 [H, W, 3], upright: `decoding.fit` of the picture that `orientation` turned.

    Only what remains after the crop is computed, and only that is turned.
    """
    turned = orientation > 4  # height and width change places, before the flips
    flip = [_is_one_of(orientation, (3, 4, 7, 8)), _is_one_of(orientation, (2, 3, 6, 7))]
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    upright = tf.where(turned, shape[::-1], shape)
    target = tf.constant(size)
    new = tf.cast(_new_shape(upright[0], upright[1], size), tf.int32)
    start = (new - target) // 2
    start = tf.where(flip, new - target - start, start)
    new, start, target = (tf.where(turned, x[::-1], x) for x in (new, start, target))
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=target,
        scale=tf.cast(tf.cast(new, tf.float64) / shape, tf.float32),
        translation=tf.cast(-start, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    image = tf.round(tf.cond(turned, lambda: tf.transpose(image, (1, 0, 2)), lambda: image))
    down, right = tf.unstack(tf.where(flip, -1, 1))
    return tf.ensure_shape(image[::down, ::right], (*size, 3))


def _new_shape(height, width, size):
    """float64 [2]: the whole picture's size after scaling. In float64, so that it rounds as Python does."""
    shape, target = tf.stack([height, width]), tf.constant(size, tf.float64)
    return tf.maximum(target, tf.round(shape * tf.reduce_max(target / shape)))


def _jpeg_header(content):
    """Walk from segment to segment up to the picture: ITU-T T.81, B.1.1, and libjpeg's `next_marker`."""
    end = tf.strings.length(content)

    def step(count, at, frame, exif):
        part = _bytes(content, at, 10)
        marker = part[1]
        is_marker = (part[0] == 255) & (marker != 0) & (marker != 255)
        is_alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & ~_is_one_of(marker, (0xC4, 0xC8, 0xCC))
        is_exif = (marker == 0xE1) & tf.reduce_all(part[4:10] == list(EXIF))
        is_last = is_marker & ((marker == 0xD9) | (marker == 0xDA))
        size = _number(part[2:4])
        frame = tf.where(is_marker & is_frame & (frame < 0), at, frame)
        found = tf.stack([at + 4, tf.minimum(size - 2, end - at - 4)])
        exif = tf.where(is_marker & is_exif & (exif[0] < 0), found, exif)
        after = at + tf.where(is_marker, tf.where(is_alone, 2, 2 + tf.maximum(size, 2)), 1)
        return count + 1, tf.where(is_last, end, after), frame, exif

    count, _, frame, exif = tf.while_loop(
        lambda count, at, *_: (at + 4 <= end) & (count < MAX_PARTS),
        step,
        (0, 2, -1, tf.constant([-1, 0])),
        parallel_iterations=1,
    )
    start = _bytes(content, tf.maximum(frame, 0), 10)
    marker, bits, colours = start[1], start[4], start[9]
    height, width = _number(start[5:7]), _number(start[7:9])
    error = _first(
        (count >= MAX_PARTS, f"a JPEG with more than {MAX_PARTS} parts before its picture"),
        (frame < 0, DAMAGED),
        (bits != 8, "a JPEG of another depth than 8 bits: save it with 8"),
        (marker >= 0xC9, "a JPEG coded arithmetically: save it as baseline or progressive"),
        (marker > 0xC2, "a lossless or hierarchical JPEG: save it as baseline or progressive"),
        (~_is_one_of(colours, (1, 3, 4)), "a JPEG that is neither grey, nor RGB, nor CMYK"),
        ((height == 0) | (width == 0), DAMAGED),
    )
    return tf.constant(IS_JPEG), height, width, _orientation(content, exif), error


def _png_header(content):
    """Walk from chunk to chunk: PNG, 5.3."""
    end = tf.strings.length(content)
    head = _bytes(content, 8, 18)
    is_header = tf.reduce_all(head[:8] == list(b"\0\0\0\x0dIHDR"))
    width, height, depth, colour = _number(head[8:12]), _number(head[12:16]), head[16], head[17]

    def step(count, at, has_key, exif, is_whole):
        size, kind = tf.unstack(
            tf.io.decode_raw(_sub(content, at, 8), tf.int32, little_endian=False, fixed_length=8)
        )
        is_last, fits = kind == _name(b"IEND"), (size >= 0) & (size <= end - at - 12)
        exif = tf.where((kind == _name(b"eXIf")) & (exif[0] < 0), tf.stack([at + 8, size]), exif)
        after = tf.where(is_last | ~fits, end, at + 12 + size)
        return count + 1, after, has_key | (kind == _name(b"tRNS")), exif, is_last & fits

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
    kind = tf.where(has_alpha, HAS_ALPHA, IS_OPAQUE)
    kind = tf.where(colour == PALETTE, IS_PALETTE, tf.where(depth == 16, IS_WIDE, kind))
    return kind, height, width, _orientation(content, exif), error


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
    start = number(_bytes(block, 4, 4))
    is_inside = is_exif & (start >= 0) & (start <= size - 2)
    start = tf.where(is_inside, start, 0)
    count = tf.minimum(number(_bytes(block, start, 2)), tf.maximum(size - start - 2, 0) // 12)
    entries = tf.reshape(_bytes(block, start + 2, 12 * count), (-1, 12))
    is_it = number(entries[:, :2]) == 0x0112
    # The first of them; a row of zeros where there is none.
    entry = tf.concat([tf.boolean_mask(entries, is_it), tf.zeros((1, 12), tf.int32)], axis=0)[0]
    is_short = (number(entry[2:4]) == 3) & (number(entry[4:8]) == 1)
    value = number(entry[8:10])
    return tf.where(is_inside & is_short & (value >= 1) & (value <= 8), value, 1)


def _by_bands(function, pixels):
    """`function`, of rows [n, w, 4] to uint8 [n, w, 3], over a picture: what it needs between is small."""
    height = tf.shape(pixels)[0]
    rows = BAND // tf.shape(pixels)[1]  # at least 16: see MAX_SIDE
    count = (height + rows - 1) // rows
    bands = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=(None, None, 3))
    return tf.while_loop(
        lambda i, _: i < count,
        lambda i, bands: (i + 1, bands.write(i, function(pixels[i * rows : (i + 1) * rows]))),
        (0, bands),
        parallel_iterations=1,
    )[1].concat()


def _on_white(pixels):
    """uint8 [h, w, 4] to [h, w, 3]: (colour * alpha + 255 * (255 - alpha)) / 255, to the nearest."""
    pixels = tf.cast(pixels, tf.uint16)
    alpha = pixels[..., 3:]
    x = pixels[..., :3] * alpha + (255 * (255 - alpha) + 128)
    return tf.cast(tf.bitwise.right_shift(x + tf.bitwise.right_shift(x, 8), 8), tf.uint8)


def _sub(content, at, count):
    """`count` bytes at `at`, or what there is of them."""
    return tf.strings.substr(content, tf.minimum(at, tf.strings.length(content)), count)


def _bytes(content, at, count):
    """The same as int32 [count], zeros where the file has ended."""
    found = tf.io.decode_raw(_sub(content, at, count), tf.uint8, fixed_length=tf.maximum(count, 1))
    return tf.cast(found[:count], tf.int32)


def _number(values):
    """Bytes [..., n] to int32 [...], the highest first. Of four, from 2^31 on it is negative."""
    n = values.shape[-1]
    return tf.reduce_sum(values * tf.constant([1 << 8 * (n - 1 - i) for i in range(n)]), axis=-1)


def _name(kind):
    return int.from_bytes(kind, "big")


def _starts_with(content, prefix):
    return tf.equal(tf.strings.substr(content, 0, len(prefix)), prefix)


def _is_one_of(value, values):
    return tf.reduce_any(tf.equal(value, values))


def _first(*errors):
    """The text of the first condition that holds, "" if none does."""
    found = tf.constant("")
    for condition, text in reversed(errors):
        found = tf.where(condition, text, found)
    return found
