"""tf.data pipelines: from a `Split` or `Examples` in memory to normalised batches.

The order of the examples and every augmentation depend on (seed, epoch, batch) alone. A run that
starts again at epoch 7 therefore sees what an unbroken one would have seen.
"""

import math

import numpy as np
import tensorflow as tf

from keras_vit.training.augment import policy


def steps_per_epoch(split, batch_size):
    return math.ceil(len(split) / batch_size)


def training_batches(split, model, recipe, first_epoch, last_epoch):
    """Batches (what `model` takes, one-hot labels [B, classes]) of epochs [first, last)."""
    count, size, seed = len(split), recipe.batch_size, recipe.seed
    steps = steps_per_epoch(split, size)
    augment = policy(recipe.augment, recipe.image_size)

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=[seed, tf.cast(epoch, tf.int32)]
        )
        batches = tf.data.Dataset.from_tensor_slices(order).batch(size)
        return batches.enumerate(start=epoch * steps)

    def load(step, indices):
        inputs, labels = _gather(split, indices)
        if recipe.augment != "none":
            inputs = augment(tf.cast(inputs, tf.float32), tf.stack([seed + 1, tf.cast(step, tf.int32)]))
        return model.prepare(inputs), tf.one_hot(labels, model.classes)

    epochs = tf.data.Dataset.range(first_epoch, last_epoch)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2).prefetch(2)


def evaluation_batches(split, model, batch_size=256):
    """The same for evaluation: in order, unchanged but for the normalisation."""

    def load(indices):
        inputs, labels = _gather(split, indices)
        return model.prepare(inputs), tf.one_hot(labels, model.classes)

    return tf.data.Dataset.range(len(split)).batch(batch_size).map(load, num_parallel_calls=2).prefetch(2)


def _gather(split, indices):
    """Pick examples by NumPy: they may live in a file mapped into memory, larger than a tensor may be."""

    def pick(array):
        picked = tf.numpy_function(lambda i: np.asarray(array[i]), [indices], array.dtype)
        picked.set_shape([None, *array.shape[1:]])
        return picked

    if hasattr(split, "images"):
        return pick(split.images), pick(split.labels.astype("int32"))
    return {name: pick(array) for name, array in split.inputs.items()}, pick(split.labels.astype("int32"))
