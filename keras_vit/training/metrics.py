"""Metrics over batches that were filled up (see `pipeline.training_batches`)."""

import keras


@keras.saving.register_keras_serializable("keras_vit")
class CountedAccuracy(keras.metrics.CategoricalAccuracy):
    """The share of right answers among the examples whose weight is not 0, each counting once."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            sample_weight = keras.ops.cast(keras.ops.greater(sample_weight, 0), "float32")
        return super().update_state(y_true, y_pred, sample_weight)
