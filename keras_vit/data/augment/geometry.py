"""Steps that move content and leave labels alone: crops, mirror, affine maps."""

import tensorflow as tf

from keras_vit.data.augment.boxes import sides
from keras_vit.data.augment.layers import keras_layer
from keras_vit.data.augment.step import Step

AREA, RATIO = (0.6, 1.0), 4 / 3  # of `crop_and_resize`: share of the area; the aspect changes by up to that


def mirror(rate: float = 0.5) -> Step:
    """Swap left and right in that share of the pictures."""
    layer = keras_layer("RandomFlip", mode="horizontal")

    def step(images, labels, seed):
        flips = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < rate
        return layer.transform_images(images, {"flips": flips}), labels

    return step


def crop_and_resize() -> Step:
    """Crop 60% to 100% of the area with aspect ratio 3/4 to 4/3, and stretch it to the size it was.

    These are the pictures that keras-cv's RandomCropAndResize makes of the same boxes. It takes one picture
    at a time, so what is called here is the operation below it, with all of them.
    """

    def step(images, labels, seed):
        count, (_, height, width, _) = tf.shape(images)[0], images.shape
        boxes = random_boxes(count, seed)
        return tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width)), labels

    return step


def random_boxes(count: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """`count` boxes float32 [count, 4]: top, left, bottom, right from 0 to 1, for `crop_and_resize`."""
    draw = tf.random.stateless_uniform([4, count], seed)
    width, height = sides(draw, AREA, RATIO)
    top, left = draw[2] * (1 - height), draw[3] * (1 - width)
    return tf.stack([top, left, top + height, left + width], axis=1)


def shift() -> Step:
    """Pad by 1/8 of the size with a reflection, and crop a random window of the old size.

    Keras' RandomCrop cuts the same window out of the whole batch, so this is our own.
    """

    def step(images, labels, seed):
        for axis in (1, 2):
            size = images.shape[axis]
            most = size // 8
            draw = tf.random.fold_in(seed, axis)
            offsets = tf.random.stateless_uniform([tf.shape(images)[0], 1], draw, -most, most + 1, tf.int32)
            places = tf.abs(tf.range(size) + offsets)  # -1 is 1: what lies before the first reflects
            places = size - 1 - tf.abs(size - 1 - places)  # and what lies behind the last
            images = tf.gather(images, places, axis=axis, batch_dims=1)
        return images, labels

    return step


def affine() -> Step:
    """Turn by up to 12 degrees, stretch each side by up to 15%, shear, move by up to 1/10 of the size.

    No mirroring: it suits characters. What comes in at the border repeats the edge pixels.
    """

    def step(images, labels, seed):
        _, height, width, _ = images.shape
        draw = tf.random.stateless_uniform([6, tf.shape(images)[0]], seed, -1.0, 1.0)
        angle, shear = draw[0] * 0.21, draw[1] * 0.15
        scale_x, scale_y = tf.exp(draw[2] * 0.14), tf.exp(draw[3] * 0.14)
        matrix = (
            (scale_x * tf.cos(angle), -scale_x * tf.sin(angle + shear)),
            (scale_y * tf.sin(angle), scale_y * tf.cos(angle + shear)),
        )
        return warp(images, matrix, draw[4] * 0.1 * width, draw[5] * 0.1 * height, "NEAREST"), labels

    return step


def warp(
    images: tf.Tensor,
    matrix: tf.Tensor,
    move_x: tf.Tensor,
    move_y: tf.Tensor,
    fill_mode: str,
    fill_value: float = 0.0,
) -> tf.Tensor:
    """Each output pixel p, seen from the middle, takes what is at `matrix` p + (move_x, move_y); bilinear.

    Args:
        images: float32 [B, H, W, C].
        matrix: ((a, b), (c, d)) of float32 [B], for (x, y).
        move_x, move_y: float32 [B], in pixels.
        fill_mode: what lies outside: "NEAREST" or "CONSTANT", which is `fill_value`.
    """
    _, height, width, _ = images.shape
    (a0, a1), (b0, b1) = matrix
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    a2 = middle_x - a0 * middle_x - a1 * middle_y + move_x
    b2 = middle_y - b0 * middle_x - b1 * middle_y + move_y
    zero = tf.zeros_like(a0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=fill_value,
        interpolation="BILINEAR",
        fill_mode=fill_mode,
    )
