"""Metrics over batches that were filled up (see `pipeline.training_batches`): real examples count, and once.

What fills up a batch has weight 0, and the real examples in it have a weight above 1, one for all.
"""

import keras
from keras import ops

from keras_vit.config import Tensor


@keras.saving.register_keras_serializable("keras_vit")
class CountedAccuracy(keras.metrics.CategoricalAccuracy):
    """The share of right answers among the examples whose weight is not 0, each counting once."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            sample_weight = ops.cast(ops.greater(sample_weight, 0), "float32")
        if y_pred.shape[-1] == 1:  # one logit: that of the other class, label 0, is 0
            y_true = ops.concatenate([1 - y_true, y_true], axis=-1)
            y_pred = ops.concatenate([ops.zeros_like(y_pred), y_pred], axis=-1)
        return super().update_state(y_true, y_pred, sample_weight)


class CountedLoss(keras.metrics.Mean):
    """The mean loss of the examples whose weight is not 0, each counting once.

    Keras takes the mean over the batches by their sizes, with what fills them up.
    """

    def update_state(self, loss: Tensor, weights: Tensor | None = None, batch_size: Tensor | int = 1) -> None:
        """Count a batch: its loss, the sum over its examples of weight * loss, divided by its size."""
        if weights is None:
            super().update_state(loss, batch_size)
            return
        weights = ops.cast(weights, "float32")
        real = ops.sum(ops.cast(ops.greater(weights, 0), "float32"))
        size = ops.cast(ops.shape(weights)[0], "float32")
        total = ops.cast(loss, "float32") * size / ops.maximum(ops.max(weights), 1e-6)
        super().update_state(total / ops.maximum(real, 1.0), real)
