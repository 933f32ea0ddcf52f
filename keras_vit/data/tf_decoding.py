"""Pictures in TensorFlow's operators, for where no Python runs: in a SavedModel, on a data service.

The pictures are those of `decoding.decode`; one that is resized may differ by 1 of 255, see `decoding.fit`.
Only JPEG and PNG: TensorFlow has no decoders for the others, or none that agree with Pillow's.

    header = read_header(content, size)     # which decoder, or why none; cheap
    image = decode(content, header)         # uint8 [h, w, 3]
    image = fit(image, header.orientation, size)
"""

import tensorflow as tf

from keras_vit.data.decoding import LUMA
from keras_vit.data.headers import GREY
from keras_vit.data.tf_headers import (
    DAMAGED,
    DECODE_16_BIT,
    DECODE_ALPHA,
    DECODE_JPEG,
    DECODE_OPAQUE,
    DECODE_PALETTE,
    Header,
    bytes_at,
    is_one_of,
    read_header,
    scaled_size,
)

AT_ONCE = 8  # files of a batch in work, as far as the server's threads allow
LARGE = 2**24  # pixels; larger pictures are decoded one by one, for the memory they need
BAND = 2**20  # pixels of a picture that are put on white at a time, for the same reason


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
    whole = tf.TensorSpec((), tf.int32)
    header = tf.map_fn(
        lambda content: read_header(content, size),
        contents,
        fn_output_signature=Header(whole, whole, whole, whole, tf.TensorSpec((), tf.string)),
        parallel_iterations=AT_ONCE,
    )
    is_good = tf.equal(header.error, "")
    is_large = header.height * header.width > LARGE

    @tf.function(autograph=False)  # traced once for both data sets
    def read(index, content, header):
        return index, fit(decode(content, header), header.orientation, size)

    def decoded(which, at_once):
        # No operator catches the error of another, but a data set can go on after one.
        some = tf.data.Dataset.from_tensor_slices(tf.where(which)[:, 0])
        some = some.map(lambda i: read(i, contents[i], Header(*(x[i] for x in header))), at_once, False)
        return some.ignore_errors()

    count = tf.size(contents, tf.int64)
    # One more than there are, since a data set that gives a batch must not be empty.
    images = decoded(is_good & ~is_large, AT_ONCE).concatenate(decoded(is_good & is_large, 1))
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

    is_grey = tf.equal(bytes_at(content, 25, 1)[0], GREY)  # its colour type, if it is a PNG
    # The accurate transform is Pillow's default; TensorFlow's is a faster, coarser one.
    ways = {
        DECODE_JPEG: lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        DECODE_OPAQUE: lambda: png(3),
        DECODE_PALETTE: palette,
        DECODE_ALPHA: lambda: _by_bands(alpha, png(4)),
        DECODE_16_BIT: lambda: _by_bands(wide, png(4, tf.uint16)),
    }
    return tf.ensure_shape(tf.switch_case(header.decoder, ways), (None, None, 3))


def fit(image: tf.Tensor, orientation: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 [h, w, 3] to float32 [H, W, 3], upright: `decoding.fit` of the picture that `orientation` turned.

    Only what remains after the crop is computed, and only that is turned.
    """
    transposed = orientation > 4  # height and width change places, before the flips
    flip = [is_one_of(orientation, (3, 4, 7, 8)), is_one_of(orientation, (2, 3, 6, 7))]
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    upright = tf.where(transposed, shape[::-1], shape)
    target = tf.constant(size)
    new = tf.cast(scaled_size(upright[0], upright[1], size), tf.int32)
    start = (new - target) // 2
    start = tf.where(flip, new - target - start, start)
    new, start, target = (tf.where(transposed, x[::-1], x) for x in (new, start, target))
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=target,
        scale=tf.cast(tf.cast(new, tf.float64) / shape, tf.float32),
        translation=tf.cast(-start, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    image = tf.round(tf.cond(transposed, lambda: tf.transpose(image, (1, 0, 2)), lambda: image))
    down, right = tf.unstack(tf.where(flip, -1, 1))
    return tf.ensure_shape(image[::down, ::right], (*size, 3))


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
