"""Metrics over batches that were filled up (see `pipeline.training_batches`): real examples count, and once.

What fills up a batch has weight 0, and the real examples in it have a weight above 1, one for all.
"""

import keras
from keras import ops


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


def count_losses(model):
    """Let a compiled model show as `loss` the mean over the real examples, each counting once, in place.

    Keras takes the mean over the batches by their sizes, with what fills them up.
    """
    tracker, usual_loss = model._loss_tracker, model.compute_loss
    usual_update = tracker.update_state
    tracker.weights_of_batch = None

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        tracker.weights_of_batch = sample_weight
        return usual_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)

    def update_state(values, sample_weight=None):
        weights, tracker.weights_of_batch = tracker.weights_of_batch, None
        if weights is None:
            return usual_update(values, sample_weight)
        weights = ops.cast(weights, "float32")
        real = ops.sum(ops.cast(ops.greater(weights, 0), "float32"))
        # The loss is the sum over the real ones of weight * loss, divided by the size of the whole batch.
        size = ops.cast(ops.shape(weights)[0], "float32")
        total = ops.cast(values, "float32") * size / ops.maximum(ops.max(weights), 1e-6)
        return usual_update(total / ops.maximum(real, 1.0), real)

    model.compute_loss, tracker.update_state = compute_loss, update_state
