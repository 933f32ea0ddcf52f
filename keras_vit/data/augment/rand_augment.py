"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719): a few of 14 operations for each picture, as strong.

Keras' layer of that name does the same operations to the whole batch. Here each picture has its own: the
batch is divided by operation, so that each picture is worked on only as often as it is changed.
"""

import tensorflow as tf

from keras_vit.data.augment.geometry import warp
from keras_vit.data.augment.layers import keras_layer, sharpness
from keras_vit.data.augment.step import Step

# At magnitude 1, as in the paper and torchvision.
TURN, SHEAR, MOVE = 0.524, 0.3, 150 / 331  # radians (30 degrees), pixels a pixel, share of the side
BLEND = 0.9  # colour, contrast, brightness and sharpness are multiplied by 1 - that or 1 + that
BITS = 4  # taken away by posterization
GREY = 128.0  # comes in at the border
GEOMETRIC = 5  # operations that are one affine map: turn, shear x, shear y, move x, move y


def rand_augment(count: int = 2, magnitude: float = 0.3) -> Step:
    """`count` operations for each picture, one after another.

    Args:
        count: how many, each drawn from all of them, of which one does nothing.
        magnitude: from 0, where only AutoContrast and equalization do something, to 1. The default is what
            the paper found best for ImageNet, 9 of 30. (DeiT writes 9 of 10, but for half of the operations.)
    """
    operations = _operations()
    num_operations = GEOMETRIC - 1 + len(operations)

    def step(images, labels, seed):
        size = tf.shape(images)[0]
        for number in range(count):
            seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
            index = tf.random.stateless_uniform([size], seeds[0], 0, num_operations, tf.int32)
            strength = tf.fill([size], float(magnitude))
            signed = tf.where(tf.random.stateless_uniform([size], seeds[1]) < 0.5, -strength, strength)
            group = tf.maximum(index - (GEOMETRIC - 1), 0)
            images = _divided(operations, group, images, index, strength, signed)
        return tf.clip_by_value(images, 0.0, 255.0), labels

    return step


def _divided(operations, group, images, *arguments):
    """operations[group[i]] of images[i] and of the i-th of each argument [B], in the order they came."""

    def divide(x):
        return tf.dynamic_partition(x, group, len(operations))

    parts = zip(operations, divide(images), *map(divide, arguments), strict=True)
    # Some kernels, such as convolution, do not take an empty batch.
    done = [
        tf.cond(tf.size(part) > 0, lambda f=f, part=part, more=more: f(part, *more), lambda part=part: part)
        for f, part, *more in parts
    ]
    whole = tf.dynamic_stitch(divide(tf.range(tf.shape(images)[0])), done)
    return tf.ensure_shape(whole, images.shape)


def _operations():
    """Functions (images [b, H, W, C], index int32 [b], strength [b] 0..1, signed [b] -1..1) -> images.

    The first one is all that are geometric.
    """
    solarization = keras_layer("Solarization", value_range=(0, 255))
    posterization = keras_layer("RandomPosterization", factor=8, value_range=(0, 255))
    degeneration = keras_layer("RandomColorDegeneration", factor=1.0, value_range=(0, 255))
    contrast = keras_layer("RandomContrast", factor=0.5, value_range=(0, 255))
    sharpen = sharpness()
    auto_contrast = keras_layer("AutoContrast", value_range=(0, 255))

    def wide(x):
        return x[:, None, None, None]

    def solarize(images, index, strength, signed):
        transformation = {"thresholds": wide(256 * (1 - strength)), "additions": tf.zeros([])}
        return solarization.transform_images(images, transformation)

    def posterize(images, index, strength, signed):
        bits = tf.cast(tf.round(BITS * strength), tf.uint8)
        return posterization.transform_images(images, {"shift_factor": bits})

    return [
        _geometric,
        lambda images, *_: images,
        lambda images, *_: auto_contrast.transform_images(images),
        lambda images, *_: equalize(images),
        solarize,
        posterize,
        lambda images, index, strength, signed: (
            degeneration.transform_images(images, {"factor": wide(BLEND * signed)})
            if images.shape[-1] == 3
            else images  # which have no colours to take away
        ),
        lambda images, index, strength, signed: contrast.transform_images(
            images, {"contrast_factor": wide(1 + BLEND * signed)}
        ),
        # Keras' RandomBrightness adds; the paper multiplies, which leaves black black.
        lambda images, index, strength, signed: tf.clip_by_value(
            images * wide(1 + BLEND * signed), 0.0, 255.0
        ),
        lambda images, index, strength, signed: sharpen.augment_images(images, wide(BLEND * signed)),
    ]


def _geometric(images, index, strength, signed):
    _, height, width, _ = images.shape
    turn, shear_x, shear_y, move_x, move_y = (
        tf.where(index == number, signed * most, 0.0)
        for number, most in enumerate((TURN, SHEAR, SHEAR, MOVE * width, MOVE * height))
    )
    matrix = (
        (tf.cos(turn), shear_x - tf.sin(turn)),
        (shear_y + tf.sin(turn), tf.cos(turn)),
    )
    return warp(images, matrix, move_x, move_y, "CONSTANT", GREY)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Spread the values of each channel of each picture evenly over 0..255, as Pillow does.

    Keras' Equalization takes one histogram of the whole batch, and keras-cv's loops over the pictures.
    """
    shape = tf.shape(images)
    pixels = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [shape[0] * shape[3], shape[1] * shape[2]])
    pixels = tf.cast(pixels, tf.int32)
    histogram = tf.math.bincount(pixels, minlength=256, maxlength=256, axis=-1)
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    last = tf.gather(histogram, tf.reduce_max(pixels, axis=-1), batch_dims=1)
    step = ((shape[1] * shape[2] - last) // 255)[:, None]
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))  # fewer than 256 pixels to spread: as it was
    even = tf.cast(tf.gather(table, pixels, batch_dims=1), tf.float32)
    return tf.transpose(tf.reshape(even, tf.gather(shape, [0, 3, 1, 2])), [0, 2, 3, 1])
