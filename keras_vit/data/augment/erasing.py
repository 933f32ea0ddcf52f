"""Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle of noise somewhere in the picture."""

import tensorflow as tf

from keras_vit.data.augment.boxes import random_mask, sides
from keras_vit.data.augment.layers import keras_layer
from keras_vit.data.augment.step import Step

AREA, RATIO = (0.02, 1 / 3), 10 / 3  # share of the area, and the aspect ratio: from 0.3 to 1 / 0.3


def erase(rate: float = 0.25) -> Step:
    """Replace 2% to 33% of the area by noise, in that share of the pictures.

    A rectangle that hangs over the edge is cut there, so that the corners are erased as often as the middle.
    """
    layer = keras_layer("RandomErasing")

    def step(images, labels, seed):
        count, (_, height, width, _) = tf.shape(images)[0], images.shape
        seeds = tf.random.split(seed, 3)
        draw = tf.random.stateless_uniform([3, count], seeds[0])
        high, wide = sides(draw, AREA, RATIO)
        mask, _ = random_mask(high, wide, (height, width), seeds[1])
        transformation = {
            "apply_erasing": draw[2] < rate,
            "batch_masks": mask,
            # One noise for the whole batch, of which each rectangle shows a part: drawing it takes most time.
            "fill_value": tf.random.stateless_uniform([1, *images.shape[1:]], seeds[2], 0.0, 255.0),
        }
        return layer.transform_images(images, transformation), labels

    return step
