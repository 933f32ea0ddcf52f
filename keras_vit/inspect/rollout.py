"""Where a model looks: the attention of each block, and the way from the answer back to the patches."""

import numpy as np
from keras import ops

from keras_vit.inspect.capture import features, vit_in


def attention_maps(model, images):
    """The attention weights of every block.

    Args:
        model, images: see `features`.

    Returns:
        list over the blocks of float32 [B, heads, N, N]: how much each token (row) takes from each
        (column). The tokens are [CLS], the distillation token, registers, patches, those that exist;
        after a merge there are fewer. Padded columns are 0; padded rows have no meaning.
    """
    names = _map_names(vit_in(model))
    values = features(model, images, names)
    return [values[name] for name in names]


def attention_rollout(model, images):
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
    vit, config = vit_in(model), vit_in(model).config
    pictures, mask = (
        (images["image"], images.get("patch_mask")) if isinstance(images, dict) else (images, None)
    )
    rows, columns = config.grid(pictures.shape[1:3])
    real = (
        np.ones((len(pictures), rows * columns), "bool") if mask is None else ops.convert_to_numpy(mask) > 0.5
    )

    extras = ["merger.norm"] if config.merge else []
    extras += ["pool.attention.probabilities"] if config.pooling == "attention" else []
    values = features(model, images, [*_map_names(vit), *extras])
    maps = [values[name] for name in _map_names(vit)]
    merging = _merging(vit.merger, values["merger.norm"], real) if config.merge else None

    flow = _readout(vit, values, real if merging is None else np.ones((len(real), config.merge[1]), "bool"))
    for block in reversed(range(config.depth)):
        flow = flow @ mixing(maps[block])
        if merging is not None and block == config.merge[0]:
            flow = np.concatenate([flow[..., : vit.prefix], flow[..., vit.prefix :] @ merging], axis=-1)
    patches = np.where(real, flow[:, 0, vit.prefix :], 0.0)
    return patches.reshape(-1, rows, columns).astype("float32")


def _map_names(vit):
    return [f"{block.name}.attention.probabilities" for block in vit.blocks]


def mixing(attention):
    """[B, heads, N, N] -> [B, N, N] with rows of sum 1; ReLU attention need not have it by itself."""
    mixed = attention.astype("float64").mean(axis=1) + np.eye(attention.shape[-1])
    return mixed / mixed.sum(axis=-1, keepdims=True)


def _merging(merger, normalised, real):
    """The weights [B, tokens, N] of a `PatchMerger`, from its normalised input [B, N, D]."""
    queries = ops.convert_to_numpy(merger.queries).astype("float64")
    scores = np.where(real[:, None], queries @ normalised.transpose(0, 2, 1), -1e30)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _readout(vit, values, real):
    """[B, 1, prefix + N]: the share of each of the last tokens in what is pooled; `real` is [B, N]."""
    batch, length = real.shape
    share = np.zeros((batch, 1, vit.prefix + length))
    if vit.config.pooling == "cls":
        share[..., : vit.class_tokens] = 1 / vit.class_tokens
    elif vit.config.pooling == "attention":
        share[:, 0, vit.prefix :] = values["pool.attention.probabilities"].mean(axis=1)[:, 0]
    else:
        share[:, 0, vit.prefix :] = real / np.maximum(real.sum(axis=1, keepdims=True), 1)
    return share
