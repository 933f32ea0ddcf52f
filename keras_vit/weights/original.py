"""The original checkpoints of google-research/vision_transformer (and AugReg, arXiv:2106.10270): .npz.

The model is vit_jax/models_vit.py there. Its MLP calls flax's `nn.gelu`, which is the tanh approximation,
and flax's LayerNorm has epsilon 1e-6. Kernels are [in, out], those of attention split into heads.
"""

import numpy as np

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError
from keras_vit.modalities.pixels import for_channels
from keras_vit.weights.checkpoint import (
    HALF,
    Checkpoint,
    From,
    agree_on_heads,
    classes_of,
    count_blocks,
    find_grid,
    gather,
    settle_positions,
    shape_of,
)

# The numbers that flax gave to the parts of a block: per kind of layer today, but one count for all of them
# before its "linen" interface, which is when the published files were written.
PUBLISHED = {"attention": "MultiHeadDotProductAttention_1", "norm_2": "LayerNorm_2", "mlp": "MlpBlock_3"}
LINEN = {"attention": "MultiHeadDotProductAttention_0", "norm_2": "LayerNorm_1", "mlp": "MlpBlock_0"}
POSITIONS = "Transformer/posembed_input/pos_embedding"


def read(path, stored, num_classes, image_size, num_heads):
    """A `Checkpoint` from {name: Stored}; for the hints see `read_checkpoint`."""
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
        None if "pre_logits/kernel" in stored else classes_of(path, stored, "head/kernel", 1, num_classes)
    )
    config = ViTConfig(
        patch_size=(height, width_),
        channels=channels,
        width=width,
        depth=count_blocks(path, stored, r"Transformer/encoderblock_(\d+)/"),
        num_heads=agree_on_heads(path, attention[1], num_heads),
        mlp_width=mlp_width,
        pooling="cls" if prefix else "mean",
        mlp="gelu_tanh",
    )
    grid = find_grid(path, [rows - len(prefix)], config.patch_size, hint=image_size)
    table = _table(config, rows, parts, block, num_classes)
    tensors = gather(path, stored, table, ignored=() if num_classes else ("head/", "pre_logits/"))
    settle_positions(tensors, prefix, prefix, patches=grid[0] * grid[1])
    size = (grid[0] * height, grid[1] * width_)
    preprocessing = for_channels(HALF, channels)
    return Checkpoint("original", config, size, num_classes, None, preprocessing, tensors)


def _table(config, rows, parts, block, num_classes):
    """{our name: where it comes from}."""
    width, hidden = config.width, config.mlp_width
    num_heads, size = config.num_heads, width // config.num_heads

    def matrix(kernel):  # [..., D] -> [in, D]
        return kernel.reshape(-1, kernel.shape[-1])

    def dense(ours, theirs, inputs, outputs):
        return {
            f"{ours}/kernel": From(f"{theirs}/kernel", (inputs, outputs)),
            f"{ours}/bias": From(f"{theirs}/bias", (outputs,)),
        }

    def norm(ours, theirs):
        return {
            f"{ours}/scale": From(f"{theirs}/scale", (width,)),
            f"{ours}/shift": From(f"{theirs}/bias", (width,)),
        }

    def into_heads(ours, theirs):  # [D, num_heads, d]
        return {
            f"{ours}/kernel": From(
                f"{theirs}/kernel", (width, num_heads, size), lambda k: k.reshape(width, width)
            ),
            f"{ours}/bias": From(f"{theirs}/bias", (num_heads, size), np.ravel),
        }

    table = {
        "patches/projection/kernel": From(
            "embedding/kernel", (*config.patch_size, config.channels, width), matrix
        ),
        "patches/projection/bias": From("embedding/bias", (width,)),
        "positions/table": From(POSITIONS, (1, rows, width)),
        **norm("norm", "Transformer/encoder_norm"),
    }
    if config.pooling == "cls":
        table["cls"] = From("cls", (1, 1, width))
    for i in range(config.depth):
        ours, theirs = f"block_{i}/", block.format(i)
        attention = theirs + parts["attention"]
        table |= {
            **norm(f"{ours}norm_1", f"{theirs}LayerNorm_0"),
            **into_heads(f"{ours}attention/query", f"{attention}/query"),
            **into_heads(f"{ours}attention/key", f"{attention}/key"),
            **into_heads(f"{ours}attention/value", f"{attention}/value"),
            f"{ours}attention/output/kernel": From(
                f"{attention}/out/kernel", (num_heads, size, width), matrix
            ),
            f"{ours}attention/output/bias": From(f"{attention}/out/bias", (width,)),
            **norm(f"{ours}norm_2", f"{theirs}{parts['norm_2']}"),
            **dense(f"{ours}mlp/expand", f"{theirs}{parts['mlp']}/Dense_0", width, hidden),
            **dense(f"{ours}mlp/contract", f"{theirs}{parts['mlp']}/Dense_1", hidden, width),
        }
    if num_classes is not None:
        table |= dense("head", "head", width, num_classes)
    return table
