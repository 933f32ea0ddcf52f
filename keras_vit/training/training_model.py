"""`TrainingModel`: a model as `fit` trains it, wrapped so that the model itself stays as it was.

A step can go through its batch in several parts (`optimization.accumulation`), the loss can have a teacher's
part (`methods.distillation`), and the loss that is shown counts every real example once (`metrics`).
"""

from typing import Any, Protocol

import keras
import tensorflow as tf

from keras_vit.config import Tensor
from keras_vit.training.metrics import CountedLoss
from keras_vit.training.optimization.accumulation import accumulated_gradients


class TrainingLoss(Protocol):
    """What a model learns from besides its labels."""

    def __call__(self, label_loss: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Tensor:
        """The loss in training, a scalar; `label_loss(x, y, y_pred, sample_weight)` is the model's own."""

    def logits(self, y_pred: Any) -> Tensor:
        """What of the model's output in training its metrics look at, [B, num_classes]."""


class TrainingModel(keras.Model):
    """A model with its training: `compile` and `fit` this, save that.

    Its variables are those of the model. Make it in the scope of the strategy that it is trained under.

    Args:
        model: a model of this package.
        loss: a `TrainingLoss`; None for the model's own `compute_loss` alone.
        accumulate: in how many parts a step goes through its batch, one after the other, for less memory.
    """

    def __init__(self, model: keras.Model, loss: TrainingLoss | None = None, accumulate: int = 1) -> None:
        super().__init__(name=f"{model.name}_training")
        self.model = model
        self.counted_loss = CountedLoss(name="loss")
        self.training_loss, self.parts = loss, accumulate
        self.built = True

    def compile(self, optimizer: Any, loss: Any = None, weighted_metrics: list | None = None) -> None:
        self.model.compile(optimizer=optimizer, loss=loss)  # its `compute_loss` uses that
        super().compile(optimizer=optimizer, weighted_metrics=weighted_metrics)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        if self.training_loss is None or not training:
            return self.model.compute_loss(x, y, y_pred, sample_weight, training=training)

        def label_loss(x, y, y_pred, sample_weight):
            return self.model.compute_loss(x, y, y_pred, sample_weight, training=True)

        return self.training_loss(label_loss, x, y, y_pred, sample_weight)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict:
        if self.training_loss is not None:
            y_pred = self.training_loss.logits(y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @property
    def metrics(self) -> list:
        # Keras has a loss of its own among them, which counts what only fills up a batch.
        return [self.counted_loss, *(metric for metric in super().metrics if metric.name != "loss")]

    def train_step(self, data: Any) -> dict:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if self.parts > 1:
            loss, gradients = accumulated_gradients(self, x, y, weights, self.parts)
        else:
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred, weights, training=True)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, self.trainable_weights)
            self.compute_metrics(x, y, y_pred, weights)
        self.count(loss, x, weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self.count(self.compute_loss(x, y, y_pred, weights, training=False), x, weights)
        return self.compute_metrics(x, y, y_pred, weights)

    def count(self, loss: Tensor, x: Any, weights: Tensor | None) -> None:
        """Add the loss of a batch to the one that is shown."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync  # a loss is divided by their number
        self.counted_loss.update_state(loss * replicas, weights, tf.shape(tf.nest.flatten(x)[0])[0])
