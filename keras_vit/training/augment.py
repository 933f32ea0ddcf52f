"""Augmentation: each policy maps a batch of images and a seed to a batch of the same shape.

Every draw is a pure function of the seed, so that a run that was interrupted sees the very same
pictures when it goes on. This is the only file that knows keras-cv, which is no longer developed.
"""

import contextlib
import io

import tensorflow as tf


def policy(name, image_size):
    """The augmentation called `name`: (images float32 [B, H, W, 3], seed int32 [2]) -> images."""
    return {"none": lambda images, seed: images, "affine": _affine, "light": _light(image_size)}[name]


def _affine(images, seed):
    """Turn by up to 12 degrees, stretch each side by up to 15%, shear, move by up to 1/10 of the size.

    No mirroring: it suits characters. What comes in at the border repeats the edge pixels.
    """
    _, height, width, _ = images.shape
    draw = tf.random.stateless_uniform([6, tf.shape(images)[0]], seed, -1.0, 1.0)
    angle, shear = draw[0] * 0.21, draw[1] * 0.15
    scale_x, scale_y = tf.exp(draw[2] * 0.14), tf.exp(draw[3] * 0.14)
    # Row vectors (a0, a1, a2) and (b0, b1, b2): output pixel (x, y) takes input (a0 x + a1 y + a2, ...).
    a0, a1 = scale_x * tf.cos(angle), -scale_x * tf.sin(angle + shear)
    b0, b1 = scale_y * tf.sin(angle), scale_y * tf.cos(angle + shear)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    a2 = middle_x - a0 * middle_x - a1 * middle_y + draw[4] * 0.1 * width
    b2 = middle_y - b0 * middle_x - b1 * middle_y + draw[5] * 0.1 * height
    zero = tf.zeros_like(a0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def _light(image_size):
    """Crop 60% to 100% of the area, aspect ratio 3/4 to 4/3, and mirror half of the pictures."""

    def augment(images, seed):
        with contextlib.redirect_stdout(io.StringIO()):  # it greets on standard output
            import keras_cv
        crop = keras_cv.layers.RandomCropAndResize(image_size, (0.6, 1.0), (3 / 4, 4 / 3))
        count = tf.shape(images)[0]
        draw = tf.random.stateless_uniform([5, count], seed)
        area = 0.6 + 0.4 * draw[0]
        ratio = tf.exp((2 * draw[1] - 1) * tf.math.log(4 / 3))
        height = tf.minimum(tf.sqrt(area / ratio), 1.0)
        width = tf.minimum(tf.sqrt(area * ratio), 1.0)
        top, left = draw[2] * (1 - height), draw[3] * (1 - width)
        boxes = tf.stack([top, left, top + height, left + width], axis=1)
        # Its own draws cannot be seeded for each batch, so the boxes are ours and the work is its.
        images = tf.map_fn(
            lambda pair: crop.augment_image(pair[0], transformation=pair[1][None]),
            (images, boxes),
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
        )
        return tf.where(draw[4][:, None, None, None] < 0.5, images[:, :, ::-1], images)

    return augment
