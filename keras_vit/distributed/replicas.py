"""What Keras 3 needs to `fit` under a `tf.distribute` strategy of several replicas. All of it is here.

Inside `patched_keras()` these are mended, each until Keras does it itself (tried with the Keras that
`constraints.txt` pins); after it Keras is as it was:

1. `TensorFlowTrainer._maybe_symbolic_build` reduces a whole structure of per-replica batches at once, and
   crashes under MultiWorkerMirroredStrategy. One replica's own batch tells the shapes as well.
2. `reduce_per_replica` reduces the metrics of several workers over an axis that a scalar does not have.
3. `SeedGenerator.next` draws the same numbers on every replica: dropout, stochastic depth and random masks
   would leave out the same in each.

`SummedAdamW` (in `optimizer.py`) is the fourth: Keras clips each replica's gradient before it sums them.
`tests/training/test_replicas.py` runs all of them in real worker processes.
"""

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf

from keras_vit._compat import replaced_in_trainer


@contextlib.contextmanager
def patched_keras() -> Iterator[None]:
    """While it lasts, Keras can `fit` under a strategy of several replicas or workers."""
    with replaced_in_trainer(_symbolic_build, _reduce, _next_seed):
        yield


def _symbolic_build(usual):
    @functools.wraps(usual)
    def build(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or iterator is None:
            return usual(self, iterator=iterator, data_batch=data_batch)
        for _, _, batches in iterator:
            batch = tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], next(batches))
            return usual(self, data_batch=batch)

    return build


def _reduce(usual):
    @functools.wraps(usual)
    def reduce(values, strategy, reduction):
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if not several or reduction not in ("auto", "mean"):
            return usual(values, strategy, reduction)
        flat = tf.nest.flatten(values)
        # In one message for all metrics, where each `strategy.reduce` would be one.
        means = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.MEAN, [(x, x) for x in flat])
        local = [strategy.experimental_local_results(mean)[0] for mean in means]
        return tf.nest.pack_sequence_as(values, local)

    return reduce


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
