"""`tf.distribute` strategies that Keras 3 can `fit` under with several replicas. `strategy` gives them.

What they add to TensorFlow's, each until Keras does it itself (tried with the Keras that `constraints.txt`
pins). Keras is not patched, but for the third while `run` runs:

1. Keras' `fit` reduces a whole structure of per-replica batches at once, to learn their shapes, which
   TensorFlow refuses. One replica's own batch tells the shapes as well.
2. `fit` reduces the metrics of several workers over an axis that a scalar does not have.
3. `keras.random.SeedGenerator.next` draws the same numbers on every replica: dropout, stochastic depth and
   random masks would leave out the same in each.

`SummedAdamW` (in `optimizer.py`) is the fourth: Keras clips each replica's gradient before it sums them.
`tests/distributed/test_replicas.py` runs all of them in real worker processes.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_vit.mixin import Mixin


class _FitsKeras(Mixin):
    """Mixed into a `tf.distribute.Strategy`."""

    def run(self, fn: Callable, args: tuple = (), kwargs: dict | None = None, options: Any = None) -> Any:
        """As TensorFlow's; each replica draws random numbers of its own from Keras."""
        with _seeds_apart():
            return super().run(fn, args, kwargs, options)

    def reduce(self, reduce_op: tf.distribute.ReduceOp, value: Any, axis: int | None) -> Any:
        """As TensorFlow's; scalars are reduced over the replicas alone, whatever `axis` is.

        A structure of values gives the values of the first local replica, unreduced: Keras asks for its
        shapes.
        """
        if tf.nest.is_nested(value):
            return tf.nest.map_structure(lambda x: self.experimental_local_results(x)[0], value)
        if axis is not None and self.experimental_local_results(value)[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)


class MirroredStrategy(_FitsKeras, tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy` for Keras 3."""


class MultiWorkerMirroredStrategy(_FitsKeras, tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` for Keras 3."""


_lock, _usual_next, _runs = threading.Lock(), None, 0


@contextlib.contextmanager
def _seeds_apart():
    """Patch `keras.random.SeedGenerator.next` while at least one `run` runs."""
    global _usual_next, _runs
    generator = keras.random.SeedGenerator
    with _lock:
        if not _runs:
            _usual_next, generator.next = generator.next, _next_seed(generator.next)
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                generator.next = _usual_next


def _next_seed(usual):
    @functools.wraps(usual)
    def next_seed(self, ordered=True):
        seed = usual(self, ordered)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        # Seeds of one replica count up in the second number; those of the others lie far from it.
        shift = tf.cast(context.replica_id_in_sync_group, seed.dtype) * 7919
        return seed + tf.stack([shift, tf.zeros_like(shift)])

    return next_seed
