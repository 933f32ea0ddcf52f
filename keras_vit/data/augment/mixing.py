"""Steps that mix pairs of pictures of a batch, and their labels: MixUp and CutMix.

Each picture is mixed with one of a random order of the same batch; in a batch of one with itself.
"""

import tensorflow as tf

from keras_vit.data.augment.boxes import random_mask
from keras_vit.data.augment.layers import keras_layer
from keras_vit.data.augment.step import Step


def mix_up(alpha: float = 0.8) -> Step:
    """w of a picture and 1 - w of another, in pixels and labels, w ~ Beta(alpha, alpha), for each picture.

    Zhang et al. 2017, arXiv:1710.09412.
    """
    layer = keras_layer("MixUp")

    def step(images, labels, seed):
        count, seeds = tf.shape(images)[0], tf.random.split(seed, 2)
        transformation = {
            "permutation_order": _order(count, seeds[0]),
            "mix_weight": _beta(count, alpha, seeds[1]),
        }
        return _transformed(layer, images, labels, transformation)

    return step


def cut_mix(alpha: float = 1.0) -> Step:
    """A rectangle of another picture in each, whose share of the label is its share of the area, exactly.

    Yun et al. 2019, arXiv:1905.04899: the rectangle's area is 1 - w before it is cut at the edges, with
    w ~ Beta(alpha, alpha). (The layer's own draws would cut through pixels, and the label be off by that.)
    """
    layer = keras_layer("CutMix")

    def step(images, labels, seed):
        count, (_, height, width, _) = tf.shape(images)[0], images.shape
        seeds = tf.random.split(seed, 3)
        side = tf.sqrt(1 - _beta(count, alpha, seeds[1]))
        mask, share = random_mask(side, side, (height, width), seeds[2])
        transformation = {
            "permutation_order": _order(count, seeds[0]),
            "batch_masks": mask,
            "mix_weight": 1 - share,
        }
        return _transformed(layer, images, labels, transformation)

    return step


def either(one: Step, other: Step) -> Step:
    """One of two steps, for the whole batch."""

    def step(images, labels, seed):
        seeds = tf.random.split(seed, 2)
        first = tf.random.stateless_uniform([], seeds[0]) < 0.5
        return tf.cond(first, lambda: one(images, labels, seeds[1]), lambda: other(images, labels, seeds[1]))

    return step


def _transformed(layer, images, labels, transformation):
    return layer.transform_images(images, transformation), layer.transform_labels(labels, transformation)


def _order(count, seed):
    return tf.random.experimental.stateless_shuffle(tf.range(count), seed)


def _beta(count, alpha, seed):
    draws = tf.random.stateless_gamma([2, count], seed, alpha)
    return draws[0] / tf.maximum(draws[0] + draws[1], 1e-30)
