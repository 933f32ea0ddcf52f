"""What stands on a residual branch: `LayerScale` and `StochasticDepth`."""

from typing import Any

import keras
from keras import ops

from keras_vit import config
from keras_vit.config import Shape, Tensor


@keras.saving.register_keras_serializable("keras_vit")
class LayerScale(keras.layers.Layer):
    """x * gamma, one learned factor for each channel (Touvron et al. 2021, arXiv:2103.17239, eq. 3).

    Args:
        initial: value that gamma starts from.
    """

    def __init__(self, initial: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = config.number("layer_scale", initial)

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.add_weight(
            shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.initial), name="gamma"
        )

    def call(self, x: Tensor) -> Tensor:
        return x * self.gamma

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable("keras_vit")
class StochasticDepth(keras.layers.Layer):
    """In training, zeroes whole examples of a batch (Huang et al. 2016, arXiv:1603.09382).

    Each example [N, D] of [B, N, D] is dropped with probability `rate`, and the others are divided by
    1 - rate, so that the expectation is the input. A true 0/1 draw for each example.

    Args:
        rate: probability of dropping an example.
        seed: of the draws; None for a random one.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = config.rate("stochastic depth", rate)
        self.seed = seed
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        if not training or not self.rate:
            return x
        shape = (ops.shape(x)[0], *(1,) * (len(x.shape) - 1))
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) >= self.rate
        return ops.where(kept, x / (1.0 - self.rate), 0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def depth_rates(rate: float, depth: int) -> list[float]:
    """Rates for `depth` blocks that grow linearly from 0 to `rate` (Huang et al. 2016, section 3)."""
    config.rate("stochastic depth", rate)
    return [rate * i / max(1, depth - 1) for i in range(depth)]
