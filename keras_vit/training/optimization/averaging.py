"""The moving average of the weights: evaluated and saved in their place (Polyak and Juditsky 1992).

`optimizer.SummedAdamW(use_ema=True)` keeps it: an average a of the weights w, after update t = 0, 1, ...

    a = m a + (1 - m) w        m = min(ema_momentum, (1 + t) / (10 + t))

which starts at the first weights and forgets them soon, also in a short run (as TensorFlow's
`ExponentialMovingAverage` does). It is part of the optimizer's variables, so that a run that goes on has it.
"""

import keras

from keras_vit._compat import moving_averages, trained_variables


def averages(model):
    """[(trainable variable, its average)] of a compiled model; empty where none is kept."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.use_ema:
        return []
    return list(zip(trained_variables(optimizer), moving_averages(optimizer), strict=True))


def averaged_weights(model):
    """What `model.get_weights()` gives, with averages in the place of the weights that have one."""
    found = {id(variable): average for variable, average in averages(model)}
    return [keras.ops.convert_to_numpy(found.get(id(variable), variable)) for variable in model.weights]


class EvaluateAverages(keras.callbacks.Callback):
    """Lets `fit` evaluate the averages: they stand in for the weights while it tests."""

    def __init__(self):
        super().__init__()
        self._kept = []

    def on_test_begin(self, logs=None):
        pairs = averages(self.model)
        self._kept = [(variable, keras.ops.convert_to_numpy(variable)) for variable, _ in pairs]
        for variable, average in pairs:
            variable.assign(average)

    def on_test_end(self, logs=None):
        self.put_back()

    def put_back(self):
        """The weights as they were; for what ends `fit` while it tests."""
        for variable, value in self._kept:
            variable.assign(value)
        self._kept = []
