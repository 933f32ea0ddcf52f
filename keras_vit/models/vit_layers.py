"""From a `ViTConfig` to the layers of a `ViT`."""

from typing import Any

import keras

from keras_vit.config import ViTConfig
from keras_vit.layers import AttentionPooling, EncoderBlock, Linear, Pooling, custom
from keras_vit.layers.linear import ACCURATE_ROLES

# Patches keep an int8 kernel: it is small, and all tokens come from it.
PATCHES_ROLES = ACCURATE_ROLES.with_roles(
    static={"input": "pixels", "output": "range"}, full={"input": "pixels"}
)
# The values of a config whose operators all have int8 kernels.
INT8_OPERATORS = {
    "stem": ("linear", "compact"),
    "position": ("learned",),
    "attention": ("soft", "relu"),
    "qk_norm": (False,),
    "mlp": ("gelu", "gelu_tanh"),
    "merge": (None,),
    "pooling": ("cls", "mean"),
    "distilled": (False,),
}


def block_for(config: ViTConfig, index: int, skip_rate: float, dtype: Any) -> keras.layers.Layer:
    """The block number `index`: an `EncoderBlock`, or what the user has registered in its place.

    Args:
        skip_rate: rate of its stochastic depth.
    """
    name = f"block_{index}"
    custom_layers = {
        field: custom.make_layer(field, registered, config, index, name if field == "block" else field, dtype)
        for field, registered in config.custom.items()
    }
    if "block" in custom_layers:
        return custom_layers["block"]
    attention = {
        "attention_type": config.attention,
        "top_k": config.top_k,
        "qk_norm": config.qk_norm,
        "dropout": config.attention_dropout,
        **scale_and_biases(config),
    }
    block = EncoderBlock(
        config.num_heads,
        config.mlp_width,
        attention=custom_layers.get("attention", attention),
        mlp=custom_layers.get("mlp", config.mlp),
        dropout=config.dropout,
        stochastic_depth=skip_rate,
        layer_scale=config.layer_scale,
        epsilon=config.epsilon,
        remat=config.remat,
        affine=config.norm_affine,
        centre=config.norm_centre,
        name=name,
        dtype=dtype,
    )
    if "attention" not in custom_layers:
        block.attention.uses_rotary = config.position == "rotary2d"
    return block


def scale_and_biases(config: ViTConfig) -> dict:
    """The arguments of an `Attention` that all attentions of a model share."""
    return {
        "scale": config.attention_scale,
        "average": config.attention_average,
        "key_bias": config.key_bias,
        "value_bias": config.value_bias,
    }


def pool_for(config: ViTConfig, prefix: int, dtype: Any) -> keras.layers.Layer:
    """From tokens to a feature. `prefix`: how many leading tokens are no patches."""
    if config.pooling != "attention":
        return Pooling(config.pooling, prefix=prefix, name="pool", dtype=dtype)
    return AttentionPooling(
        config.num_heads,
        config.mlp_width,
        mlp=config.mlp,
        prefix=prefix,
        epsilon=config.epsilon,
        attention=scale_and_biases(config),
        affine=config.norm_affine,
        name="pool",
        dtype=dtype,
    )


def head_for(config: ViTConfig, num_classes: int, name: str, dtype: Any) -> Linear:
    """From a feature to logits, zeros at first."""
    head = Linear(num_classes, kernel_initializer="zeros", dtype=dtype, name=name)
    # A mean of tokens has a range of its own; [CLS] has that of the last norm's output.
    mean = {"input": "range"} if config.pooling == "mean" else {}
    head.roles = ACCURATE_ROLES.with_roles(full=mean)
    return head
