"""Tokens left out or covered in training: `PatchDropout` and `MaskTokens`."""

from typing import Any

import keras
from keras import ops

from keras_vit import config
from keras_vit.config import Shape, Tensor
from keras_vit.errors import InputError
from keras_vit.layers.masks import ExplicitMask, token_mask


@keras.saving.register_keras_serializable("keras_vit")
class PatchDropout(ExplicitMask, keras.layers.Layer):
    """In training, keeps a random part of the patch tokens (Liu et al. 2022, arXiv:2208.07220).

    `call` gives the indices of the tokens to keep, in rising order: int32 [B, prefix + K] with
    K = round((1 - rate) * (N - prefix)), at least 1; or None when nothing is left out. `take_tokens`
    and `take_positions` apply them. Prefix tokens always stay; of a padded sequence the real tokens go first.

    Args:
        rate: share of the patches that is left out.
        prefix: leading tokens that are no patches.
        seed: of the draws; None for a random one.
    """

    def __init__(self, rate: float, prefix: int = 0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = config.rate("patch dropout", rate)
        self.prefix = config.integer("prefix", prefix, at_least=0)
        self.seed = seed
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, tokens: Tensor, mask: Tensor | None = None, training: bool | None = None) -> Tensor | None:
        if not training or not self.rate:
            return None
        batch, length = ops.shape(tokens)[0], tokens.shape[1] - self.prefix
        keep = max(1, round((1.0 - self.rate) * length))
        order = keras.random.uniform((batch, length), dtype="float32", seed=self.seed_generator)
        if mask is not None:
            order = order + ops.cast(
                ops.logical_not(token_mask(mask, *tokens.shape[:2])[:, self.prefix :]), "float32"
            )
        chosen = ops.sort(ops.argsort(order, axis=1)[:, :keep], axis=1)
        first = ops.zeros_like(chosen[:, :1]) + ops.arange(self.prefix, dtype=chosen.dtype)
        return ops.cast(ops.concatenate([first, chosen + self.prefix], axis=1), "int32")

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "prefix": self.prefix, "seed": self.seed}


def take_tokens(x: Tensor, keep: Tensor) -> Tensor:
    """Of x [B, N, D] or a mask [B, N], the tokens `keep` [B, K]."""
    return ops.take_along_axis(x, ops.expand_dims(keep, 2) if len(x.shape) == 3 else keep, axis=1)


def take_positions(positions: dict, keep: Tensor) -> dict:
    """What `for_attention` of a position layer gave, for the tokens `keep` [B, K] of each example."""
    taken = dict(positions)
    if "rotary" in positions:
        taken["rotary"] = tuple(ops.take(table, keep, axis=0) for table in positions["rotary"])
    if "bias" in positions:
        num_heads, length, _ = positions["bias"].shape
        pairs = ops.expand_dims(keep, 2) * length + ops.expand_dims(keep, 1)  # [B, K, K]
        taken["bias"] = ops.transpose(
            ops.take(ops.reshape(positions["bias"], (num_heads, -1)), pairs, axis=1), (1, 0, 2, 3)
        )
    return taken


@keras.saving.register_keras_serializable("keras_vit")
class MaskTokens(ExplicitMask, keras.layers.Layer):
    """Covers random tokens with a learned [MASK] (Devlin et al. 2019; Xie et al. 2022, arXiv:2111.09886).

    In training, tokens [B, N, D] give (tokens, covered): in each example round(ratio * real tokens) of
    the real ones are replaced, and `covered` [B, N] is True there. Otherwise nothing is.

    Args:
        ratio: share of the real tokens that is covered.
        seed: of the draws; None for a random one.
    """

    def __init__(self, ratio: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise InputError(f"ratio must be in [0, 1], not {ratio!r}.")
        self.ratio = ratio
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Shape) -> None:
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token",
        )

    def call(
        self, tokens: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        real = (
            ops.ones_like(tokens[:, :, 0], dtype="bool")
            if mask is None
            else token_mask(mask, *tokens.shape[:2])
        )
        if not training:
            return tokens, ops.logical_and(real, False)
        count = ops.round(self.ratio * ops.sum(ops.cast(real, "float32"), axis=1, keepdims=True))
        draw = keras.random.uniform(ops.shape(real), dtype="float32", seed=self.seed_generator)
        draw = ops.where(real, draw, 2.0)  # behind all real ones
        rank = ops.argsort(ops.argsort(draw, axis=1), axis=1)
        covered = ops.logical_and(ops.cast(rank, "float32") < count, real)
        return ops.where(ops.expand_dims(covered, 2), ops.cast(self.token, tokens.dtype), tokens), covered

    def compute_output_spec(
        self, tokens: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> Any:
        covered = keras.KerasTensor(tokens.shape[:2], dtype="bool")
        return keras.KerasTensor(tokens.shape, dtype=self.compute_dtype), covered

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        return input_shape, input_shape[:2]

    def get_config(self) -> dict:
        return {**super().get_config(), "ratio": self.ratio, "seed": self.seed}
