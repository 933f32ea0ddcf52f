"""`accumulated_gradients`: the gradient of a batch in several parts, one after the other, for less memory.

Keras' own `gradient_accumulation_steps` counts batches: its schedule runs on between two updates, the last
group of an epoch is filled from the next one, what it has gathered must be saved too, and a strategy of
several replicas refuses it. Here a step stays a step, and only the activations of one part are in memory.
"""

from typing import Any

import tensorflow as tf


def accumulated_gradients(model: Any, x: Any, y: Any, weights: Any, parts: int) -> tuple:
    """(loss, gradients) of a batch, which goes through `model` in `parts`.

    They are those of the whole batch but for rounding, and for what is random in the model; each replica of a
    strategy divides its own share. The metrics of `model` see every part.

    Args:
        model: a compiled `TrainingModel`.
        x, y, weights: the batch; weights may be None.
        parts: how many.

    Returns:
        The gradients are in the order of `model.trainable_weights`; None for those that no loss reaches.
    """
    batch = tf.nest.map_structure(lambda t: _divided(t, parts), (x, y, _weights(x, weights, parts)))
    variables = model.trainable_weights
    reached: list[bool] = []

    def step(part, loss, gradients):
        x, y, weights = tf.nest.map_structure(lambda t: t[part], batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            part_loss = model.compute_loss(x, y, y_pred, weights, training=True) / parts
        new = tape.gradient(part_loss, variables)
        reached[:] = [gradient is not None for gradient in new]
        new = [
            total if gradient is None else total + tf.convert_to_tensor(gradient)
            for total, gradient in zip(gradients, new, strict=True)
        ]
        model.compute_metrics(x, y, y_pred, sample_weight=weights)
        return part + 1, loss + part_loss, new

    carried = 0, 0.0, [tf.zeros(variable.shape, variable.dtype) for variable in variables]
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        _, loss, gradients = tf.while_loop(
            lambda part, *_: part < parts, step, carried, parallel_iterations=1, maximum_iterations=parts
        )
    else:  # which must not meet in a loop of TensorFlow's
        for _ in range(parts):
            with tf.control_dependencies(carried[2]):
                carried = step(*carried)
        _, loss, gradients = carried
    return loss, [total if seen else None for total, seen in zip(gradients, reached, strict=True)]


def _length(x):
    return tf.shape(tf.nest.flatten(x)[0])[0]


def _weights(x, weights, parts):
    """Weights [B, ...] such that the mean of the parts' means is the batch's, with 0 for what fills it up."""
    length = _length(x)
    filled = -(-length // parts) * parts
    given = tf.ones([length]) if weights is None else weights
    return given * tf.cast(filled, given.dtype) / tf.cast(length, given.dtype)


def _divided(t, parts):
    """[B, ...] as [parts, ceil(B / parts), ...]: every `parts`-th example, then zeros.

    So the examples that are there spread evenly over the parts.
    """
    missing = -tf.shape(t)[0] % parts
    t = tf.pad(t, [[0, missing]] + [[0, 0]] * (len(t.shape) - 1))
    t = tf.reshape(t, [-1, parts, *t.shape[1:]])
    return tf.transpose(t, [1, 0, *range(2, len(t.shape))])
