"""tf.data pipelines: from a `Split` or `Examples` in memory to normalised batches.

The order of the examples and every augmentation depend on (seed, epoch, batch) alone. A run that
starts again in epoch 7, after batch 5, therefore sees what an unbroken one would have seen, and several
workers, each of which makes only its part of every batch, what one would see alone.
"""

import math
from collections.abc import Callable, Sized
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.augment import policy
from keras_vit.data.examples import Examples
from keras_vit.data.image_data import Split
from keras_vit.data.service import ServedSplit

GROUP = 32  # examples that are augmented, and mixed, together: a worker does those groups that it needs
AnySplit = Split | ServedSplit | Examples


def steps_per_epoch(split: Sized, batch_size: int) -> int:
    return math.ceil(len(split) / batch_size)


def distributed(
    strategy: tf.distribute.Strategy | None,
    make: Callable[[tf.distribute.InputContext | None], tf.data.Dataset],
) -> tf.data.Dataset:
    """The data set that `make(tf.distribute.InputContext)` makes, for the replicas of `strategy`.

    Without a strategy, what `make(None)` makes.
    """
    return make(None) if strategy is None else strategy.distribute_datasets_from_function(make)


def training_batches(
    split: AnySplit,
    model: keras.Model,
    recipe: Any,
    first_epoch: int,
    last_epoch: int,
    even: bool = False,
    skipped: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches (what `model` takes, labels float32 [B, num_classes]) of epochs [first, last), without
    the `skipped` first batches of the first one.

    Labels are one-hot, or mixed where the augmentation mixes pictures (MixUp, CutMix): then the training
    accuracy counts an answer as right if it is the class with the largest share, as Keras' does.

    With `even` all batches are equally large, as several replicas need them, and a third part has a weight
    for each example. The last batch of an epoch is filled up with examples of weight 0, and the others in it
    weigh more, so that the mean over the batch is the mean over the real ones. Only real ones are mixed.

    With `context`, which `distributed` gives, each batch comes as its pieces for the replicas of this worker,
    one after another. Other workers' pieces are not made.
    """
    count, size, seed = len(split), recipe.batch_size, recipe.seed
    first_piece, last_piece, pieces = _pieces(context)
    length = size // pieces
    steps = steps_per_epoch(split, size)
    augment = policy(recipe.augment)

    def shuffled(epoch):
        return tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=[seed, tf.cast(epoch, tf.int32)]
        )

    def with_indices(known, step):
        """The state is an epoch and its order, which serves until there is a step of another epoch."""
        epoch, order = step // steps, known[1]
        order = tf.cond(epoch == known[0], lambda: order, lambda: shuffled(epoch))
        start = tf.cast(step % steps, tf.int32) * size
        return (epoch, order), (step, order[start : start + size])

    def in_pieces(step, indices):
        return tf.data.Dataset.range(first_piece, last_piece).map(lambda piece: (step, indices, piece))

    def load(step, indices, piece):
        real = tf.shape(indices)[0]
        start = tf.cast(piece, tf.int32) * length
        stop = tf.minimum(start + length, real)
        here = tf.maximum(stop - start, 0)  # real examples in this piece
        start = tf.minimum(start, real - 1)  # of a piece without any, one that weighs nothing
        if recipe.augment == "none":
            inputs, labels = _gather(split, indices[start:stop])
            labels = targets(labels, model)
        else:
            first = start // GROUP
            skip = first * GROUP
            inputs, labels = _gather(split, indices[skip : -(-stop // GROUP) * GROUP])
            labels = targets(labels, model)
            draw = tf.stack([seed + 1, tf.cast(step, tf.int32)])
            inputs, labels = _in_groups(augment, tf.cast(inputs, tf.float32), labels, draw, first)
            inputs, labels = inputs[start - skip : stop - skip], labels[start - skip : stop - skip]
        batch = model.prepare(inputs), labels
        return _filled_up(batch, here, length, size / real) if even else batch

    # From the numbers of the steps on, so that a data service can deal them out to its workers. It goes on
    # after the last one, as some may be lost with a worker.
    last = tf.int64.max if isinstance(split, ServedSplit) else last_epoch * steps
    none = tf.constant(-1, tf.int64), tf.zeros([count], tf.int32)
    batches = tf.data.Dataset.range(first_epoch * steps + skipped, last).scan(none, with_indices)
    batches = batches.flat_map(in_pieces)
    if isinstance(split, ServedSplit):
        batches = split.distribute(batches.map(load, num_parallel_calls=tf.data.AUTOTUNE))
    else:
        batches = batches.map(load, num_parallel_calls=2)
    return batches.prefetch(2)


def evaluation_batches(
    split: AnySplit, model: keras.Model, batch_size: int = 256, even: bool = False
) -> tf.data.Dataset:
    """The same for evaluation: in order, unchanged but for the normalisation."""
    count = steps_per_epoch(split, batch_size) * batch_size

    def load(indices):
        inputs, labels = _gather(split, indices)
        batch = model.prepare(inputs), targets(labels, model)
        # Keras takes the mean over all batches, by their sizes with what fills the last one up.
        return _filled_up(batch, tf.shape(indices)[0], batch_size, count / len(split)) if even else batch

    return tf.data.Dataset.range(len(split)).batch(batch_size).map(load, num_parallel_calls=2).prefetch(2)


def targets(labels: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Integer labels [B] as what the loss of `model` takes, float32 [B, num_classes]: of one class 0 or 1."""
    if model.num_classes == 1:
        return tf.cast(labels, tf.float32)[:, None]
    return tf.one_hot(labels, model.num_classes or 1)


def _pieces(context):
    """(first, last + 1, all) pieces of each batch, one for each replica, that this input pipeline makes."""
    if context is None:
        return 0, 1, 1
    here = context.num_replicas_in_sync // context.num_input_pipelines
    first = context.input_pipeline_id * here
    return first, first + here, context.num_replicas_in_sync


def _in_groups(augment, images, labels, seed, first):
    """`images` and `labels` augmented in groups, each with its own seed; `first`: the number of the first."""
    groups = -(-tf.shape(images)[0] // GROUP)

    def step(k, *done):
        rows = slice(k * GROUP, (k + 1) * GROUP)
        augmented = augment(images[rows], labels[rows], tf.random.fold_in(seed, first + k))
        return k + 1, *(array.write(k, x) for array, x in zip(done, augmented, strict=True))

    arrays = [
        tf.TensorArray(x.dtype, groups, infer_shape=False, element_shape=[None, *x.shape[1:]])
        for x in (images, labels)
    ]
    _, *done = tf.while_loop(lambda k, *_: k < groups, step, (0, *arrays))
    return tuple(array.concat() for array in done)


def _filled_up(batch, real, size, weight):
    """`batch` with copies of its last example up to `size`, and weights [size]: `weight`, then 0."""
    rows = tf.minimum(tf.range(size), tf.maximum(real, 1) - 1)
    weights = tf.where(tf.range(size) < real, tf.cast(weight, tf.float32), 0.0)

    def fill(x):
        filled = tf.gather(x, rows)
        filled.set_shape([size, *x.shape[1:]])
        return filled

    return *tf.nest.map_structure(fill, batch), weights


def _gather(split, indices):
    """Pick examples; by NumPy: they may live in a file mapped into memory, larger than a tensor may be."""
    if isinstance(split, ServedSplit):
        return split.gather(indices)

    def pick(array):
        picked = tf.numpy_function(lambda i: np.asarray(array[i]), [indices], array.dtype)
        picked.set_shape([None, *array.shape[1:]])
        return picked

    if hasattr(split, "images"):
        return pick(split.images), pick(split.labels.astype("int32"))
    return {name: pick(array) for name, array in split.inputs.items()}, pick(split.labels.astype("int32"))
