"""The original checkpoints of google-research/vision_transformer (and AugReg, arXiv:2106.10270): .npz.

The model is vit_jax/models_vit.py there. Its MLP calls flax's `nn.gelu`, which is the tanh approximation,
and flax's LayerNorm has epsilon 1e-6. Kernels are [in, out], those of attention split into heads.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError
from keras_vit.modalities.pixels import for_channels
from keras_vit.weights.checkpoint import (
    INCEPTION,
    Checkpoint,
    Source,
    StoredTensor,
    count_blocks,
    load_tensors,
    num_classes_of,
    resolve_num_heads,
    shape_of,
)
from keras_vit.weights.position_tables import arrange_positions, find_grid

# The numbers that flax gave to the parts of a block: per class of layer today, but one count for all of them
# before its "linen" interface, which is when the published files were written.
PUBLISHED = {"attention": "MultiHeadDotProductAttention_1", "norm_2": "LayerNorm_2", "mlp": "MlpBlock_3"}
LINEN = {"attention": "MultiHeadDotProductAttention_0", "norm_2": "LayerNorm_1", "mlp": "MlpBlock_0"}
POSITIONS = "Transformer/posembed_input/pos_embedding"


def read(
    path: Path,
    stored: Mapping[str, StoredTensor],
    num_classes: int | None,
    image_size: int | tuple[int, int] | None,
    num_heads: int | None,
) -> Checkpoint:
    """The checkpoint in these tensors; for the hints see `read_checkpoint`."""
    if "conv_root/kernel" in stored:
        raise InputError(
            f"{path} is a hybrid of ResNet and ViT (conv_root/kernel): only plain ViTs can be read."
        )
    if "pre_logits/kernel" in stored and num_classes is None:
        raise InputError(
            f"{path} has a tanh layer before its head (pre_logits), as files of 2020 do, which ViT does not: "
            "give num_classes=N for a fresh head on the features below it."
        )
    height, width_, channels, width = shape_of(path, stored, "embedding/kernel", rank=4)
    block = "Transformer/encoderblock_{}/"
    parts = PUBLISHED if any(f"/{PUBLISHED['mlp']}/" in name for name in stored) else LINEN
    attention = shape_of(path, stored, f"{block.format(0)}{parts['attention']}/query/kernel", rank=3)
    mlp_width = shape_of(path, stored, f"{block.format(0)}{parts['mlp']}/Dense_0/kernel", rank=2)[1]
    rows = shape_of(path, stored, POSITIONS, rank=3)[1]
    prefix = ["cls"] if "cls" in stored else []
    num_classes = (
        None if "pre_logits/kernel" in stored else num_classes_of(path, stored, "head/kernel", 1, num_classes)
    )
    config = ViTConfig(
        patch_size=(height, width_),
        channels=channels,
        width=width,
        depth=count_blocks(path, stored, r"Transformer/encoderblock_(\d+)/"),
        num_heads=resolve_num_heads(path, attention[1], num_heads),
        mlp_width=mlp_width,
        pooling="cls" if prefix else "mean",
        mlp="gelu_tanh",
    )
    grid = find_grid(path, [rows - len(prefix)], config.patch_size, hint=image_size)
    table = _table(config, rows, parts, block, num_classes)
    tensors = load_tensors(path, stored, table, ignored=() if num_classes else ("head/", "pre_logits/"))
    arrange_positions(tensors, prefix, prefix, num_patches=grid[0] * grid[1])
    size = (grid[0] * height, grid[1] * width_)
    preprocessing = for_channels(INCEPTION, channels)
    return Checkpoint("original", config, size, num_classes, None, preprocessing, tensors)


def _table(config, rows, parts, block, num_classes):
    """{variable: its source}."""
    width, hidden = config.width, config.mlp_width
    num_heads, size = config.num_heads, width // config.num_heads

    def matrix(kernel):  # [..., D] -> [in, D]
        return kernel.reshape(-1, kernel.shape[-1])

    def dense(target, source, inputs, outputs):
        return {
            f"{target}/kernel": Source(f"{source}/kernel", (inputs, outputs)),
            f"{target}/bias": Source(f"{source}/bias", (outputs,)),
        }

    def norm(target, source):
        return {
            f"{target}/scale": Source(f"{source}/scale", (width,)),
            f"{target}/shift": Source(f"{source}/bias", (width,)),
        }

    def split_into_heads(target, source):  # [D, num_heads, d]
        return {
            f"{target}/kernel": Source(
                f"{source}/kernel", (width, num_heads, size), lambda k: k.reshape(width, width)
            ),
            f"{target}/bias": Source(f"{source}/bias", (num_heads, size), np.ravel),
        }

    table = {
        "patches/projection/kernel": Source(
            "embedding/kernel", (*config.patch_size, config.channels, width), matrix
        ),
        "patches/projection/bias": Source("embedding/bias", (width,)),
        "positions/table": Source(POSITIONS, (1, rows, width)),
        **norm("norm", "Transformer/encoder_norm"),
    }
    if config.pooling == "cls":
        table["cls"] = Source("cls", (1, 1, width))
    for i in range(config.depth):
        target, source = f"block_{i}/", block.format(i)
        attention = source + parts["attention"]
        table |= {
            **norm(f"{target}norm_1", f"{source}LayerNorm_0"),
            **split_into_heads(f"{target}attention/query", f"{attention}/query"),
            **split_into_heads(f"{target}attention/key", f"{attention}/key"),
            **split_into_heads(f"{target}attention/value", f"{attention}/value"),
            f"{target}attention/output/kernel": Source(
                f"{attention}/out/kernel", (num_heads, size, width), matrix
            ),
            f"{target}attention/output/bias": Source(f"{attention}/out/bias", (width,)),
            **norm(f"{target}norm_2", f"{source}{parts['norm_2']}"),
            **dense(f"{target}mlp/expand", f"{source}{parts['mlp']}/Dense_0", width, hidden),
            **dense(f"{target}mlp/contract", f"{source}{parts['mlp']}/Dense_1", hidden, width),
        }
    if num_classes is not None:
        table |= dense("head", "head", width, num_classes)
    return table
