"""`LayerwiseAdamW`: AdamW whose learning rate is scaled variable by variable."""

import keras


@keras.saving.register_keras_serializable("keras_vit")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov and Hutter 2019) with a factor on the learning rate of each variable.

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
        return self._factors[self._get_variable_index(variable)]

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self._factor(variable))

    def _apply_weight_decay(self, variables):
        decay = self.weight_decay
        if decay is None:
            return
        try:
            for variable in variables:
                self.weight_decay = decay * self._factor(variable)
                super()._apply_weight_decay([variable])
        finally:
            self.weight_decay = decay

    def get_config(self):
        return {**super().get_config(), "scales": self.scales}
