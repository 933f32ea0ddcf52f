"""Private names of Keras and of TensorFlow's distribution, each with the version it was seen in.

They stand here alone, so that one file is to be read when a version changes; tests/test_compat.py says which
of them is gone. Those of LiteRT, the converter and tensorflow-model-optimization are in `export/_compat.py`.
"""

from collections.abc import Callable
from typing import Any

import keras


def flatten_layers(layer: keras.layers.Layer, include_self: bool = True, recursive: bool = True) -> list:
    """A layer and all layers in it (Keras 3.15: `Layer._flatten_layers`)."""
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def allow_more_layers(layer: keras.layers.Layer) -> None:
    """Let a built layer take further layers as attributes (Keras 3.15: `Layer._tracker`)."""
    layer._tracker.unlock()


class ModelWithSignature(keras.Model):
    """A model that TensorFlow can save inside another one, also when its inputs differ in dtype.

    Keras (3.15, TensorFlow) adds `_default_save_signature` to a SavedModel for every model in it, and gives
    all inputs one dtype: none is added where that is not theirs.
    """

    @property
    def takes_floats_alone(self) -> bool:
        """Whether all inputs are float32."""
        return True

    @property
    def _default_save_signature(self):
        return super()._default_save_signature if self.takes_floats_alone else None


def variable_index(optimizer: keras.Optimizer, variable: Any) -> int:
    """The place of a variable in an optimizer (Keras 3.15: `Optimizer._get_variable_index`)."""
    return optimizer._get_variable_index(variable)


def moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """Adam's two averages of a variable's gradient (Keras 3.15: `Adam._momentums`, `Adam._velocities`)."""
    index = variable_index(optimizer, variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def trained_variables(optimizer: keras.Optimizer) -> list:
    """The variables that an optimizer was built for (Keras 3.15: `Optimizer._trainable_variables`)."""
    return optimizer._trainable_variables


def moving_averages(optimizer: keras.Optimizer) -> list:
    """Those of these variables (Keras 3.15: `Optimizer._model_variables_moving_average`)."""
    return optimizer._model_variables_moving_average


def update_on_all_replicas(optimizer: keras.Optimizer, update: Callable, *arguments: Any) -> None:
    """`update(strategy, *arguments)` once for all replicas.

    Keras 3.15: `Optimizer._distribution_strategy`; TensorFlow 2.21: `tf.__internal__`.
    """
    import tensorflow as tf

    merge = tf.__internal__.distribute.interim.maybe_merge_call
    merge(update, optimizer._distribution_strategy, *arguments)


class HookedAdamW(keras.optimizers.AdamW):
    """AdamW with steps that a subclass can replace; all of them are private in Keras 3.15."""

    def update_averages(self, variables: list) -> None:
        """Move the average of each variable (`_update_model_variables_moving_average`)."""
        super()._update_model_variables_moving_average(variables)

    def clip(self, gradients: list) -> list:
        """Clip the gradients of one replica (`_clip_gradients`)."""
        return super()._clip_gradients(gradients)

    def sum_over_replicas(self, pairs: Any) -> Any:
        """Sum (gradient, variable) over the replicas (`_all_reduce_sum_gradients`)."""
        return super()._all_reduce_sum_gradients(pairs)

    def decay(self, variables: list) -> None:
        """Apply the decoupled weight decay (`_apply_weight_decay`)."""
        super()._apply_weight_decay(variables)

    def _update_model_variables_moving_average(self, trainable_variables):
        self.update_averages(trainable_variables)

    def _clip_gradients(self, gradients):
        return self.clip(gradients)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return self.sum_over_replicas(grads_and_vars)

    def _apply_weight_decay(self, variables):
        self.decay(variables)
