"""tf.data pipelines: from a `Split` or `Examples` in memory to normalised batches.

The order of the examples and every augmentation depend on (seed, epoch, batch) alone. A run that
starts again in epoch 7, after batch 5, therefore sees what an unbroken one would have seen.
"""

import math

import numpy as np
import tensorflow as tf

from keras_vit.training.augment import policy


def steps_per_epoch(split, batch_size):
    return math.ceil(len(split) / batch_size)


def training_batches(split, model, recipe, first_epoch, last_epoch, even=False, skipped=0):
    """Batches (what `model` takes, labels float32 [B, classes]) of epochs [first, last), without
    the `skipped` first batches of the first one.

    Labels are one-hot, or mixed where the augmentation mixes pictures (MixUp, CutMix): then the training
    accuracy counts an answer as right if it is the class with the largest share, as Keras' does.

    With `even` all batches are equally large, as several replicas need them, and a third part has a weight
    for each example. The last batch of an epoch is filled up with examples of weight 0, and the others in it
    weigh more, so that the mean over the batch is the mean over the real ones. Only real ones are mixed.
    """
    count, size, seed = len(split), recipe.batch_size, recipe.seed
    steps = steps_per_epoch(split, size)
    augment = policy(recipe.augment)

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=[seed, tf.cast(epoch, tf.int32)]
        )
        batches = tf.data.Dataset.from_tensor_slices(order).batch(size)
        batches = batches.enumerate(start=epoch * steps)
        return batches.skip(tf.where(epoch == first_epoch, tf.cast(skipped, tf.int64), 0))

    def load(step, indices):
        inputs, labels = _gather(split, indices)
        labels = tf.one_hot(labels, model.classes or 1)
        if recipe.augment != "none":
            draw = tf.stack([seed + 1, tf.cast(step, tf.int32)])
            inputs, labels = augment(tf.cast(inputs, tf.float32), labels, draw)
        batch = model.prepare(inputs), labels
        real = tf.shape(indices)[0]
        return _filled_up(batch, real, size, size / real) if even else batch

    epochs = tf.data.Dataset.range(first_epoch, last_epoch)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2).prefetch(2)


def evaluation_batches(split, model, batch_size=256, even=False):
    """The same for evaluation: in order, unchanged but for the normalisation."""
    count = steps_per_epoch(split, batch_size) * batch_size

    def load(indices):
        inputs, labels = _gather(split, indices)
        batch = model.prepare(inputs), tf.one_hot(labels, model.classes or 1)
        # Keras takes the mean over all batches, by their sizes with what fills the last one up.
        return _filled_up(batch, tf.shape(indices)[0], batch_size, count / len(split)) if even else batch

    return tf.data.Dataset.range(len(split)).batch(batch_size).map(load, num_parallel_calls=2).prefetch(2)


def _filled_up(batch, real, size, weight):
    """`batch` with copies of its last example up to `size`, and weights [size]: `weight`, then 0."""
    rows = tf.minimum(tf.range(size), real - 1)
    weights = tf.where(tf.range(size) < real, tf.cast(weight, tf.float32), 0.0)

    def fill(x):
        filled = tf.gather(x, rows)
        filled.set_shape([size, *x.shape[1:]])
        return filled

    return *tf.nest.map_structure(fill, batch), weights


def _gather(split, indices):
    """Pick examples by NumPy: they may live in a file mapped into memory, larger than a tensor may be."""

    def pick(array):
        picked = tf.numpy_function(lambda i: np.asarray(array[i]), [indices], array.dtype)
        picked.set_shape([None, *array.shape[1:]])
        return picked

    if hasattr(split, "images"):
        return pick(split.images), pick(split.labels.astype("int32"))
    return {name: pick(array) for name, array in split.inputs.items()}, pick(split.labels.astype("int32"))
