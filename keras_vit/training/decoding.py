"""One picture in TensorFlow's operators, for where no Python runs: in a SavedModel, on a data service.

The pictures are those of `images.decode`; one that is resized may differ by 1 of 255, see `images.fit`. Only
JPEG and PNG: TensorFlow has no decoders for the others, or none that agree with Pillow's.
"""

import tensorflow as tf

from keras_vit.training.images import LUMA


def picture(content, size):
    """The bytes of a JPEG or PNG file to float32 [H, W, 3] in 0..255, by the rule of `images.fit`."""
    image = tf.cond(tf.io.is_jpeg(content), lambda: _jpeg(content), lambda: _png(content))
    shape = tf.cast(tf.shape(image)[:2], tf.float64)  # float64, so that rounding agrees with Python's
    target = tf.constant(size, tf.float64)
    scale = tf.reduce_max(target / shape)
    new = tf.cast(tf.maximum(target, tf.round(shape * scale)), tf.int32)
    image = tf.round(tf.image.resize(image, new, antialias=True))
    top, left = (new[0] - size[0]) // 2, (new[1] - size[1]) // 2
    return tf.ensure_shape(image[top : top + size[0], left : left + size[1]], (*size, 3))


def _jpeg(content):
    # The accurate transform is Pillow's default; TensorFlow's is a faster, coarser one.
    image = tf.cast(tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)
    return _upright(image, _orientation(content))


def _orientation(content):
    """The EXIF orientation of a JPEG, 1 to 8; 1 if it has none. TensorFlow's decoder passes over it.

    The entry is tag 0x0112, type 3 (short), count 1, in the byte order that EXIF names after its
    "Exif" and two zeros. The first such entry is that of the picture; one of a thumbnail comes later.
    """
    head = tf.io.decode_raw(tf.strings.substr(content, 0, 65536), tf.uint8)
    exif = head[_find(head, b"Exif\0\0") :]
    big, little = _find(exif, b"\x01\x12\0\x03\0\0\0\x01\0"), _find(exif, b"\x12\x01\x03\0\x01\0\0\0")
    # One more byte follows the longer pattern. `end` stands for "not found", where a 1 is appended.
    end, is_big = tf.shape(exif)[0], _find(exif, b"Exif\0\0MM") == 0
    at = tf.minimum(tf.where(is_big, big + 9, little + 8), end)
    value = tf.cast(tf.concat([exif, [1]], 0)[at], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _find(data, pattern):
    """Index of the first `pattern` (bytes) in `data` (uint8 [N]), or N."""
    count = tf.maximum(tf.shape(data)[0] - len(pattern) + 1, 0)
    hits = tf.reduce_all([data[i : i + count] == byte for i, byte in enumerate(pattern)], axis=0)
    found = tf.concat([tf.where(hits)[:, 0], [tf.size(data, tf.int64)]], axis=0)
    return tf.cast(tf.reduce_min(found), tf.int32)


def _upright(image, orientation):
    """Undo an EXIF orientation, as Pillow's exif_transpose does."""
    turn = tf.image.rot90  # counter-clockwise
    across = tf.transpose(image, (1, 0, 2))
    return tf.switch_case(
        orientation - 1,
        [
            lambda: image,
            lambda: image[:, ::-1],
            lambda: turn(image, 2),
            lambda: image[::-1],
            lambda: across,
            lambda: turn(image, 3),
            lambda: turn(across, 2),
            lambda: turn(image, 1),
        ],
    )


def _png(content):
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    header = tf.io.decode_raw(tf.strings.substr(content, 24, 2), tf.uint8)  # bit depth, colour type
    # TensorFlow fills in an alpha of 2^depth - 1, not 255, for grey of fewer than 8 bits.
    opaque = (header[0] < 8) & (header[1] == 0)
    alpha = tf.where(opaque, 1.0, pixels[..., 3:] / 255.0)
    return tf.round(pixels[..., :3] * alpha + 255.0 * (1.0 - alpha))  # on white, as everywhere here


def to_channels(pictures: tf.Tensor, channels: int) -> tf.Tensor:
    """RGB float32 [..., 3], whole numbers, as a model of so many channels takes it: `images.to_channels`."""
    if channels == 3:
        return pictures
    grey = tf.reduce_sum(tf.cast(pictures, tf.int32) * tf.constant(LUMA), axis=-1, keepdims=True)
    return tf.cast((grey + 32768) // 65536, tf.float32)
