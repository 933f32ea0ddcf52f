"""The schedule of our recipes, and AdamW: right on several replicas, with averages, and rates by layer."""

import keras
import tensorflow as tf

from keras_vit._compat import HookedAdamW, moments, moving_averages, update_on_all_replicas, variable_index


def warmup_cosine(peak, steps, warmup):
    """A learning rate that rises linearly to `peak` in `warmup` of `steps`, and falls as a cosine to zero."""
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(peak, decay_steps=steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=peak, warmup_steps=warmup
    )


@keras.saving.register_keras_serializable("keras_vit")
class SummedAdamW(HookedAdamW):
    """AdamW (Loshchilov and Hutter 2019) that clips the sum of all replicas' gradients.

    Keras clips each replica's own gradient and then sums them, so that the result would depend on the number
    of replicas. On one device it is `keras.optimizers.AdamW`, in one pass over each variable and not in ten,
    but for `use_ema`: the average (see `averaging.py`) starts at the first weights, warms up, works on
    several replicas, and never takes the weights' place.
    """

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        step = tf.cast(self.iterations + 1, variable.dtype)
        momentum, velocity = moments(self, variable)
        var = variable.value if isinstance(variable, keras.Variable) else variable
        tf.raw_ops.ResourceApplyAdam(
            var=var.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )

    def build(self, variables):
        super().build(variables)
        if self.use_ema:
            for variable, average in zip(variables, moving_averages(self), strict=True):
                average.assign(variable)

    def update_averages(self, variables):
        done = tf.cast(self.iterations, tf.float32)
        momentum = tf.minimum(self.ema_momentum, (1 + done) / (10 + done))

        def update(average, value, momentum):
            momentum = tf.cast(momentum, average.dtype)
            average.assign(momentum * average + (1 - momentum) * value)

        def update_all(strategy, momentum):
            pairs = zip(variables, moving_averages(self), strict=True)
            for variable, average in pairs:
                strategy.extended.update(average.value, update, args=(variable.value, momentum), group=False)

        update_on_all_replicas(self, update_all, momentum)

    def finalize_variable_values(self, var_list):
        """Nothing, where Keras would end `fit` with the averages as weights: a state may be saved then."""

    def clip(self, gradients):
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        return super().clip(gradients)

    def sum_over_replicas(self, pairs):
        return pairs  # they have been, above


@keras.saving.register_keras_serializable("keras_vit")
class LayerwiseAdamW(SummedAdamW):
    """`SummedAdamW` with a factor on the learning rate of each variable.

    The factor applies to the step and to the decoupled weight decay alike.

    Args:
        scales: {variable path: factor}, see `keras_vit.models.learning_rate_scales`; 1 for others.
        *args, **kwargs: of `keras.optimizers.AdamW`.
    """

    def __init__(self, *args, scales=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.scales = dict(scales or {})

    def build(self, variables):
        super().build(variables)
        self._factors = [self.scales.get(variable.path, 1.0) for variable in variables]

    def _factor(self, variable):
        # By index, as Adam finds its moments: the TensorFlow backend hands over variables without a path.
        return self._factors[variable_index(self, variable)]

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self._factor(variable))

    def decay(self, variables):
        decay = self.weight_decay
        if decay is None:
            return
        try:
            for variable in variables:
                self.weight_decay = decay * self._factor(variable)
                super().decay([variable])
        finally:
            self.weight_decay = decay

    def get_config(self):
        return {**super().get_config(), "scales": self.scales}
