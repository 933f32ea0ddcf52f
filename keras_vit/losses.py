"""Losses: `SmoothedCrossEntropy` (label smoothing, sequences) and `MaskedReconstruction` (masked modelling).

    model.compile(optimizer, loss=keras_vit.losses.SmoothedCrossEntropy(0.1, ignore=0))

Both compute in float32, whatever the model's precision.
"""

import keras
from keras import ops

from keras_vit.config import Tensor, boolean, rate
from keras_vit.errors import InputError, one_of

NOISES = ("uniform", "sampled")
DISTANCES = ("l2", "l1")
VARIANCE_EPSILON = 1e-6  # added to the variance of a patch: He et al. 2021, their code


class _Reduced(keras.losses.Loss):
    """Keras' own reduction, and its scaling under a distribution strategy, of costs that are computed."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


@keras.saving.register_keras_serializable("keras_vit")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with 1 - e on the true label and e on noise labels.

        "uniform":  (1 - e) * -log p[label]  +  e * mean over all classes of -log p
        "sampled":  (1 - e) * -log p[label]  +  e * -log p[noise],  noise drawn anew for each label

    "uniform" is Szegedy et al. 2015 (arXiv:1512.00567, section 7) and equals Keras' `label_smoothing`; noise
    of "sampled" is any class, the true one included, with equal probability, so that "uniform" is its
    expectation.

    Predictions are [B, num_classes] or [B, T, num_classes] (any number of axes T). Labels are integers
    without the last axis (or with one of length 1), or one-hot or soft with it; both give equal values.
    Of a sequence it is the mean over the time steps that count, and then the mean over the sequences that
    have such a step: padding and empty sequences change nothing. `ignore` says which steps count, and so does
    a `sample_weight` [B, T]: a mask of 0 and 1, or weights for a weighted mean. A `sample_weight` [B]
    multiplies the sequences, as in Keras. Keras' implicit masks are not looked at.

    A label that is no class, and not `ignore`, gives NaN rather than a number that looks fine.

    Args:
        smoothing: e, in [0, 1).
        noise: "uniform" or "sampled".
        from_logits: whether predictions are logits or probabilities.
        ignore: a label that does not count, e.g. -1 or the id of [PAD]; one-hot labels in which that class is
            1, or no class is, do not count either. None: all count.
        seed: of the noise.
        reduction, name: as in Keras.

    Raises:
        InputError: an argument is out of range, or labels do not fit the predictions.
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        noise: str = "uniform",
        from_logits: bool = True,
        ignore: int | None = None,
        seed: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "smoothed_cross_entropy",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.smoothing = rate("smoothing", smoothing)
        self.noise = one_of("noise", noise, NOISES)
        self.from_logits = boolean("from_logits", from_logits)
        if ignore is not None and (isinstance(ignore, bool) or not isinstance(ignore, int)):
            raise InputError(f"ignore must be a label, an integer, or None, not {ignore!r}.")
        self.ignore = ignore
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if noise == "sampled" else None
        self._reduced = _Reduced(name=name, reduction=reduction, dtype="float32")

    def __call__(self, y_true, y_pred, sample_weight=None):
        labels, predictions = _labels_and_predictions(y_true, y_pred)
        counts, weights = self._counts(labels, predictions), None
        if sample_weight is not None:
            weights = _without_last_one(_as_weights(sample_weight), len(counts.shape))
            if len(counts.shape) > 1 and _fits(weights.shape, counts.shape):
                counts, weights = counts * weights, None
            else:
                weights = _without_last_one(weights, 1)
                _check_weights(weights, counts.shape)
        costs = self._costs(labels, predictions, counts)
        if len(counts.shape) > 1:
            steps = tuple(range(1, len(counts.shape)))
            total = ops.sum(counts, axis=steps)
            costs = ops.divide_no_nan(ops.sum(costs * counts, axis=steps), total)
            counts = ops.cast(total > 0, "float32")
        return self._reduced(costs, costs, sample_weight=self._of_examples(counts, weights))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The cost of each label, [B] or [B, T]; 0 where it does not count."""
        labels, predictions = _labels_and_predictions(y_true, y_pred)
        return self._costs(labels, predictions, self._counts(labels, predictions))

    def _of_examples(self, counts, weights):
        """What Keras multiplies the costs [B] with: its mean divides by B, and this by how many count."""
        if self.reduction in ("sum_over_batch_size", "mean"):
            counts = counts * ops.divide_no_nan(ops.sum(ops.ones_like(counts)), ops.sum(counts))
        return counts if weights is None else counts * weights

    def _counts(self, labels, predictions):
        """1 or 0 for each label, float32 [B] or [B, T]: whether it counts."""
        if len(labels.shape) < len(predictions.shape):
            counted = ops.ones_like(labels) if self.ignore is None else labels != self.ignore
            return ops.cast(counted, "float32")
        total = ops.sum(labels, axis=-1)
        if self.ignore is None:
            return ops.ones_like(total)
        if 0 <= self.ignore < labels.shape[-1]:
            total = ops.where(labels[..., self.ignore] > 0.5, 0.0, total)
        return ops.cast(total > 0, "float32")

    def _costs(self, labels, predictions, counts):
        """The cost of each label, float32 [B] or [B, T]; 0 where it does not count."""
        counted = counts != 0
        # Before any arithmetic: the gradient of a NaN that is multiplied by 0 later would be NaN.
        logs = self._log_probabilities(ops.where(ops.expand_dims(counted, -1), predictions, 0.0))
        if len(labels.shape) < len(predictions.shape):
            known = ops.logical_and(labels >= 0, labels < logs.shape[-1])
            cost = ops.where(known, -_of_class(logs, ops.where(known, labels, 0)), float("nan"))
        else:
            # A choice, as 0 times the -infinity of a class that is ruled out would be NaN.
            cost = -ops.sum(ops.where(labels != 0, labels * logs, 0.0), axis=-1)
        if self.smoothing:
            cost = (1.0 - self.smoothing) * cost + self.smoothing * self._noise_cost(logs)
        return ops.where(counted, cost, 0.0)

    def _log_probabilities(self, y_pred):
        if self.from_logits:
            return ops.log_softmax(y_pred, axis=-1)
        share = ops.divide_no_nan(y_pred, ops.sum(y_pred, axis=-1, keepdims=True))
        epsilon = keras.config.epsilon()
        return ops.log(ops.clip(share, epsilon, 1.0 - epsilon))  # as Keras does

    def _noise_cost(self, logs):
        if self.noise == "uniform":
            return -ops.mean(logs, axis=-1)
        num_classes = logs.shape[-1]
        draw = keras.random.uniform(ops.shape(logs)[:-1], dtype="float32", seed=self.seed_generator)
        # On JAX a compiled step never sees a loss' generator move on, and under a distribution strategy all
        # replicas have the same one. So what is drawn is turned by a number from the predictions: a
        # uniform number, turned by anything, is uniform.
        turn = ops.stop_gradient(1e3 * ops.sum(ops.where(logs > -1e3, logs, 0.0), axis=-1))
        draw = draw + (turn - ops.floor(turn))
        noise = ops.cast(ops.floor((draw - ops.floor(draw)) * num_classes), "int32")
        return -_of_class(logs, ops.minimum(noise, num_classes - 1))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "smoothing": self.smoothing,
            "noise": self.noise,
            "from_logits": self.from_logits,
            "ignore": self.ignore,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("keras_vit")
class MaskedReconstruction(keras.losses.Loss):
    """How far predicted patches are from the true ones, on the masked patches only.

        loss(target, predicted, mask):  mean over the masked patches of the batch of
            mean((predicted - target)^2)   "l2": He et al. 2021 (MAE, arXiv:2111.06377)
            mean(|predicted - target|)     "l1": Xie et al. 2021 (SimMIM, arXiv:2111.09886)

    Target and predicted are [B, N, P]; the mask [B, N] is True or 1 where a patch was hidden, and may hold
    other weights; without one all patches count. What the others hold, even NaN, changes nothing. Without
    a masked patch it is 0.

    Args:
        normalise: compare with (target - mean) / sqrt(var + 1e-6), mean and variance of each patch (MAE,
            section 3, "Reconstruction target"; the authors' code divides the variance by P - 1, not by P).
        distance: "l2" or "l1".
        reduction, name: as in Keras; "mean_with_sample_weight" is the mean over what is masked.

    Raises:
        InputError: shapes that do not fit each other.
    """

    def __init__(
        self,
        normalise: bool = True,
        distance: str = "l2",
        reduction: str | None = "mean_with_sample_weight",
        name: str = "masked_reconstruction",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.normalise = boolean("normalise", normalise)
        self.distance = one_of("distance", distance, DISTANCES)

    def __call__(self, y_true, y_pred, sample_weight=None):
        target, predicted = (ops.cast(ops.convert_to_tensor(x), "float32") for x in (y_true, y_pred))
        if len(target.shape) != 3 or not _fits(target.shape, predicted.shape):
            raise InputError(
                f"target and predicted patches must both be [batch, patches, numbers], not "
                f"{list(target.shape)} and {list(predicted.shape)}."
            )
        if sample_weight is None:
            return super().__call__(target, predicted)
        weights = _as_weights(sample_weight)
        if not _fits(weights.shape, target.shape[:2]):
            raise InputError(
                f"a mask of shape {list(weights.shape)} for patches of shape {list(target.shape)}: it must "
                f"be {list(target.shape[:2])}, one number for each patch."
            )
        hidden = ops.expand_dims(weights != 0, 2)
        # Before any arithmetic: the gradient of what is multiplied by 0 later would be NaN.
        target, predicted = ops.where(hidden, target, 0.0), ops.where(hidden, predicted, 0.0)
        return super().__call__(target, predicted, sample_weight=weights)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The cost of each patch, [B, N]."""
        if self.normalise:
            mean, deviation = patch_statistics(y_true)
            y_true = (y_true - mean) / deviation
        error = y_pred - y_true
        return ops.mean(ops.abs(error) if self.distance == "l1" else error * error, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "normalise": self.normalise, "distance": self.distance}

    @classmethod
    def from_config(cls, config: dict) -> "MaskedReconstruction":
        return cls(**{"distance" if name == "kind" else name: value for name, value in config.items()})


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, sqrt(var + 1e-6)) of each patch of [B, N, P], each float32 [B, N, 1]."""
    patches = ops.cast(patches, "float32")
    mean = ops.mean(patches, axis=-1, keepdims=True)
    centred = patches - mean
    return mean, ops.sqrt(ops.mean(centred * centred, axis=-1, keepdims=True) + VARIANCE_EPSILON)


def _labels_and_predictions(y_true, y_pred):
    """Labels int32 [B, ...] or float32 [B, ..., classes], and predictions float32 [B, ..., classes]."""
    labels = ops.convert_to_tensor(y_true)
    predictions = ops.cast(ops.convert_to_tensor(y_pred), "float32")
    given, shape = tuple(labels.shape), tuple(predictions.shape)
    if len(shape) < 2 or shape[-1] is None or shape[-1] < 2:
        raise InputError(
            f"predictions must be [batch, num_classes] or [batch, time, num_classes] of at least 2 classes, "
            f"not {list(shape)}."
        )
    if _fits(given, shape):
        return ops.cast(labels, "float32"), predictions
    labels = _without_last_one(labels, len(shape) - 1)
    if not _fits(labels.shape, shape[:-1]):
        raise InputError(
            f"labels of shape {list(given)} for predictions of shape {list(shape)}: they must be integers of "
            f"shape {list(shape[:-1])} or one-hot of shape {list(shape)}."
        )
    return ops.cast(labels, "int32"), predictions


def _fits(given, expected):
    """Whether two shapes are equal, as far as they are known."""
    if len(given) != len(expected):
        return False
    return all(None in (n, m) or n == m for n, m in zip(given, expected, strict=True))


def _of_class(logs, labels):
    return ops.squeeze(ops.take_along_axis(logs, ops.expand_dims(labels, -1), axis=-1), axis=-1)


def _as_weights(weights):
    return ops.cast(ops.convert_to_tensor(weights), "float32")


def _without_last_one(x, axes):
    """`x` of that many axes: Keras likes to add a last axis of length 1."""
    return ops.squeeze(x, axis=-1) if len(x.shape) == axes + 1 and x.shape[-1] == 1 else x


def _check_weights(weights, shape):
    if not _fits(weights.shape, shape[:1]):
        each = f" or {list(shape)}, one number for each label" if len(shape) > 1 else ""
        raise InputError(
            f"sample_weight of shape {list(weights.shape)}: it must be {list(shape[:1])}, one number for "
            f"each example{each}."
        )
