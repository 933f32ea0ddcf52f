"""The visual sentence learns to predict visual features: `VisualPrediction` and its loss."""

from typing import Any

import keras
from keras import ops

from keras_vit.config import Shape, Tensor, integer
from keras_vit.errors import InputError, one_of
from keras_vit.layers.linear import Linear
from keras_vit.layers.masks import ExplicitMask, as_mask
from keras_vit.layers.pooling import Pooling

DISTANCES = ("cosine", "l2")


@keras.saving.register_keras_serializable("keras_vit")
class VisualPrediction(ExplicitMask, keras.layers.Layer):
    """What a visual sentence [B, K, D] says of the picture: Linear(mean over K), [B, features].

    Train it with `visual_prediction_loss` against the vision module's pooled features.

    Args:
        features: width of the vision module's features.
    """

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = integer("features", features, 1)
        self.pool = Pooling("mean", dtype=self.dtype_policy, name="pool")
        self.projection = Linear(features, dtype=self.dtype_policy, name="projection")

    def build(self, sentence_shape: Shape) -> None:
        self.pool.build(sentence_shape)
        self.projection.build((sentence_shape[0], sentence_shape[2]))

    def call(self, sentence: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [B, K]: which tokens of the sentence are real."""
        return self.projection(self.pool(sentence, mask=mask))

    def compute_output_shape(self, sentence_shape: Shape) -> Shape:
        return (sentence_shape[0], self.features)

    def get_config(self) -> dict:
        return {**super().get_config(), "features": self.features}


def visual_prediction_loss(
    predicted: Tensor,
    target: Tensor,
    distance: str = "cosine",
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """How far predicted features are from the vision module's: a scalar, float32.

        cosine: 1 - p . t / (|p| |t|)        l2: mean over the features of (p - t)^2

    averaged over all that `mask` lets count; 0 when that is nothing. No gradient flows into `target`.

    Args:
        predicted, target: [..., D], of the same shape.
        distance: "cosine" or "l2".
        mask: [...], True = counts: where both the text and the picture are there. What else stands there
            (NaN too) changes neither the loss nor a gradient.
        sample_weight: [...], a factor on each. As in Keras' losses the mean is over how many count, not over
            their weights: so that the mean over several parts of a batch is that of the batch.
    """
    one_of("distance", distance, DISTANCES)
    given, expected = tuple(predicted.shape), tuple(target.shape)
    if len(given) != len(expected) or any(
        None not in pair and pair[0] != pair[1] for pair in zip(given, expected, strict=True)
    ):
        raise InputError(
            f"predicted features {list(given)} and those to predict {list(expected)} must have one shape: "
            "pool both, or use as many tokens."
        )
    predicted, target = ops.cast(predicted, "float32"), ops.stop_gradient(ops.cast(target, "float32"))
    if mask is not None:
        mask = as_mask(mask)
        predicted, target = (ops.where(ops.expand_dims(mask, -1), x, 0) for x in (predicted, target))
    if distance == "l2":
        loss = ops.mean(ops.square(predicted - target), axis=-1)
    else:
        loss = 1 - ops.sum(_unit(predicted) * _unit(target), axis=-1)
    counts = ops.ones_like(loss) if mask is None else ops.cast(mask, "float32")
    if sample_weight is not None:
        loss = loss * ops.cast(sample_weight, "float32")
    return ops.sum(loss * counts) / ops.maximum(ops.sum(counts), 1.0)


def _unit(x):
    """x / |x|; zeros, with a finite gradient, where x is 0."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))
