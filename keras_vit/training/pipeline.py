"""tf.data pipelines: from a `Split` in memory to normalised batches.

The order of the images and every augmentation depend on (seed, epoch, batch) alone. A run that
starts again at epoch 7 therefore sees what an unbroken one would have seen.
"""

import math

import numpy as np
import tensorflow as tf

from keras_vit.training.augment import policy


def steps_per_epoch(split, batch_size):
    return math.ceil(len(split) / batch_size)


def training_batches(split, classes, preprocessing, recipe, first_epoch, last_epoch):
    """Batches (images float32 [B, H, W, 3], one-hot labels [B, classes]) of epochs [first, last)."""
    count, size, seed = len(split), recipe.batch_size, recipe.seed
    steps = steps_per_epoch(split, size)
    augment = policy(recipe.augment, recipe.image_size)
    normalise = _normaliser(preprocessing)

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=[seed, tf.cast(epoch, tf.int32)]
        )
        batches = tf.data.Dataset.from_tensor_slices(order).batch(size)
        return batches.enumerate(start=epoch * steps)

    def load(step, indices):
        images, labels = _gather(split, indices)
        images = augment(images, tf.stack([seed + 1, tf.cast(step, tf.int32)]))
        return normalise(images), tf.one_hot(labels, classes)

    epochs = tf.data.Dataset.range(first_epoch, last_epoch)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2).prefetch(2)


def evaluation_batches(split, classes, preprocessing, batch_size=256):
    """The same for evaluation: in order, unchanged but for the normalisation."""
    normalise = _normaliser(preprocessing)

    def load(indices):
        images, labels = _gather(split, indices)
        return normalise(images), tf.one_hot(labels, classes)

    return tf.data.Dataset.range(len(split)).batch(batch_size).map(load, num_parallel_calls=2).prefetch(2)


def _gather(split, indices):
    """Pick images by NumPy: they may live in a file mapped into memory, larger than a tensor may be."""
    images = tf.numpy_function(lambda i: np.asarray(split.images[i]), [indices], tf.uint8)
    images.set_shape([None, *split.images.shape[1:]])
    labels = tf.numpy_function(lambda i: split.labels[i].astype("int32"), [indices], tf.int32)
    labels.set_shape([None])
    return tf.cast(images, tf.float32), labels


def _normaliser(preprocessing):
    mean, std = (tf.constant(preprocessing[key], tf.float32) for key in ("mean", "std"))
    return lambda images: (images / 255.0 - mean) / std
