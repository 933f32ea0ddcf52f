"""Where a model looks: the attention of each block, and the way from the answer back to the patches."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.inspect.capture import features, vit_in
from keras_vit.layers import Attention
from keras_vit.layers.masks import MASKED_SCORE
from keras_vit.models import ViT


def attention_maps(model: keras.Model, images: Any) -> list[np.ndarray]:
    """The attention weights of every block.

    Args:
        model, images: see `features`.

    Returns:
        list over the blocks of float32 [B, num_heads, N, N]: how much each token (row) takes from each
        (column). The tokens are [CLS], the distillation token, registers, patches, those that exist;
        after a merge there are fewer. Padded columns are 0; padded rows have no meaning.
    """
    names = _map_names(vit_in(model))
    values = features(model, images, names)
    return [values[name] for name in names]


def attention_rollout(model: keras.Model, images: Any) -> np.ndarray:
    """Attention rollout, how much of each patch reaches the answer: Abnar and Zuidema 2020, arXiv:2005.00928.

    A residual connection adds each token to what it attends to, so a block mixes tokens by

        M = rows of (mean over heads of A + 1), each divided by its sum

    and the whole encoder by M_L ... M_1. Of this product the row counts that is read out: that of
    [CLS], or the mean over [CLS] and the distillation token; the mean over the real patches for
    pooling "mean" and None; for attention pooling the mean weighted by the pooling's own attention.
    A PatchMerger in between mixes by its weights.

    Args:
        model, images: see `features`.

    Returns:
        float32 [B, rows, columns]. Padded patches are 0. What [CLS] and other tokens keep to
        themselves is missing from the sum, which is at most 1.
    """
    vit = vit_in(model)
    pictures, mask = (
        (images["image"], images.get("patch_mask")) if isinstance(images, dict) else (images, None)
    )
    values = features(model, images, rollout_names(vit))
    return ops.convert_to_numpy(rollout_from(vit, values, pictures.shape[1:3], mask))


def rollout_names(vit: ViT) -> list[str]:
    """The values from which `rollout_from` computes."""
    extras = ["merger.norm"] if vit.config.merge else []
    extras += ["pool.attention.probabilities"] if vit.config.pooling == "attention" else []
    return [*_map_names(vit), *extras]


def rollout_from(vit: ViT, values: Mapping[str, Any], image_size: tuple[int, int], mask: Any = None) -> Any:
    """`attention_rollout` from what a pass computed, in operators of Keras: also inside a traced graph.

    Args:
        vit: the `ViT`; one that `keras_vit.export.fold` made, too.
        values: {name: array or tensor} of `rollout_names`. The maps of the last block may be those of the
            class tokens alone.
        image_size: (height, width) of the pictures.
        mask: [B, N], which of their patches are real; None if all.

    Returns:
        tensor float32 [B, rows, columns].
    """
    config, (rows, columns) = vit.config, vit.config.grid(image_size)
    maps = [_weights(vit, values[name]) for name in _map_names(vit)]
    real = None if mask is None else ops.cast(ops.convert_to_tensor(mask) > 0.5, "float32")
    merging = _merging(vit.merger, values["merger.norm"], real) if config.merge else None
    every = np.ones((1, maps[-1].shape[3] - vit.prefix), "float32")
    last = every if real is None or merging is not None else real  # merged tokens are all real
    flow = _readout(vit, values, last, outputs=maps[-1].shape[2])
    for block in reversed(range(config.depth)):
        flow = ops.matmul(flow, mixing(maps[block]))
        if merging is not None and block == config.merge[0]:
            merged = ops.matmul(flow[..., vit.prefix :], merging)
            flow = ops.concatenate([flow[..., : vit.prefix], merged], axis=-1) if vit.prefix else merged
    patches = flow[..., vit.prefix :] if vit.prefix else flow
    if real is not None:
        patches = ops.where(ops.expand_dims(real, 1) > 0, patches, 0.0)
    return ops.reshape(patches, (-1, rows, columns))


def _map_names(vit):
    for block in vit.blocks:
        if not isinstance(getattr(block, "attention", None), Attention):
            custom = ", ".join(f"{field}={name}" for field, name in vit.config.custom.items())
            raise InputError(
                f"a ViT with {custom} has no attention weights to show: name its values with `features`, see "
                "`feature_names`."
            )
    return [f"{block.name}.attention.probabilities" for block in vit.blocks]


def _weights(vit, attention):
    """The attention [B, num_heads, N, N] of a block; what `fold` took out of relu attention is put back."""
    attention = ops.cast(attention, "float32")
    if vit.config.attention == "relu" and not vit.config.attention_average:
        return attention / attention.shape[-1]
    return attention


def mixing(attention: Any) -> Any:
    """[B, num_heads, M, N] -> [B, M, N] with rows of sum 1, of the first M tokens.

    ReLU attention need not have that sum by itself.
    """
    mixed = ops.mean(attention, axis=1) + np.eye(attention.shape[-2], attention.shape[-1], dtype="float32")
    return mixed / ops.sum(mixed, axis=-1, keepdims=True)


def _merging(merger, normalised, real):
    """The weights [B, tokens, N] of a `PatchMerger`, from its normalised input [B, N, D]."""
    scores = ops.matmul(ops.cast(merger.queries, "float32"), ops.transpose(normalised, (0, 2, 1)))
    if real is not None:
        scores = ops.where(ops.expand_dims(real, 1) > 0, scores, MASKED_SCORE)
    return ops.softmax(scores, axis=-1)


def _readout(vit, values, real, outputs):
    """[B or 1, 1, outputs]: the share of each of the last tokens in what is pooled; `real` is [B or 1, N]."""
    if vit.config.pooling == "cls":
        share = np.zeros((1, 1, outputs), "float32")
        share[..., : vit.class_tokens] = 1 / vit.class_tokens
        return share
    if vit.config.pooling == "attention":
        share = ops.mean(values["pool.attention.probabilities"], axis=1)[:, :1]
    else:
        share = ops.expand_dims(real / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0), 1)
    if not vit.prefix:
        return share
    return ops.concatenate([ops.zeros_like(share[..., :1])] * vit.prefix + [share], axis=-1)
