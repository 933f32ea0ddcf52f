"""ViT and DeiT of timm (huggingface/pytorch-image-models): safetensors, with config.json or bare.

The models are models/vision_transformer.py and models/deit.py there. A bare file does not tell the number
of heads (published widths do), which GELU it uses (taken to be the exact one), the pooling (taken to be [CLS]
if there is one) and the normalisation of pixels; config.json does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError
from keras_vit.weights.checkpoint import (
    IMAGENET,
    INCEPTION,
    Checkpoint,
    Source,
    StoredTensor,
    conv_kernel,
    count_blocks,
    load_tensors,
    normalisation,
    num_classes_of,
    resolve_num_heads,
    shape_of,
    torch_linear,
    torch_norm,
)
from keras_vit.weights.position_tables import arrange_positions, find_grid
from keras_vit.weights.safe_reading import get_setting, get_size_setting

# Of the models that timm registers (1.0.31); what a name in config.json changes comes first.
HEADS_OF_ARCHITECTURE = {"vit_base_patch16_gap": 16, "vit_giantopt": 16, "vit_giant_patch14": 24}
HEADS_OF_WIDTH = {192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16}
HEADS_OF_WIDTH |= {1152: 16, 1280: 16, 1408: 16, 1664: 16}
GELU_TANH_ARCHITECTURES = (
    "vit_base_patch32_siglip",
    "vit_giantopt_patch16_siglip",
    "vit_large_patch16_siglip_512",
    "vit_large_patch16_siglip_gap_512",
    "vit_so400m_patch16_siglip",
)
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}  # act_layer -> mlp
POOLINGS = {"token": "cls", "avg": "mean"}  # global_pool -> pooling
UNSUPPORTED = {  # part of a name -> what it means
    "attn_pool.": "another attention pooling",
    "conv_dw": "convolutions",
    "fc_norm.": "a norm after the pooling",
    "norm_pre.": "a norm before the blocks, as in CLIP",
    "patch_embed.backbone.": "a convolutional network before the blocks",
    "rel_pos": "other relative positions",
    "rope": "other rotary positions",
}
# In timm's order.
PREFIX_TOKENS = {"cls": "cls_token", "distillation": "dist_token", "registers": "reg_token"}


def is_timm(stored: Mapping[str, StoredTensor]) -> bool:
    """Whether the tensors have timm's names."""
    return "patch_embed.proj.weight" in stored


def read(
    path: Path,
    stored: Mapping[str, StoredTensor],
    settings: Mapping[str, Any],
    num_classes: int | None,
    image_size: int | tuple[int, int] | None,
    num_heads: int | None,
) -> Checkpoint:
    """The checkpoint in these tensors and this config.json, {} without one."""
    for part, meaning in UNSUPPORTED.items():
        names = [name for name in stored if part in name]
        if names:
            raise InputError(f"{path} has {meaning} ({names[0]}), which ViT does not have.")
    config_path = path.parent / "config.json"
    model_args = get_setting(config_path, settings, "model_args", dict, {})
    # Before version 0.9 of timm, the content of pretrained_cfg lay at the top.
    pretrained_cfg = get_setting(config_path, settings, "pretrained_cfg", dict, settings)
    architecture = get_setting(config_path, settings, "architecture", str, "")

    width, channels, *patch_size = shape_of(path, stored, "patch_embed.proj.weight", rank=4)
    prefix = [name for name, token in PREFIX_TOKENS.items() if token in stored]
    lengths = {name: shape_of(path, stored, PREFIX_TOKENS[name], rank=3)[1] for name in prefix}
    rows = shape_of(path, stored, "pos_embed", rank=3)[1]
    pooling = _pooling(config_path, settings, model_args, prefix)
    distilled = "distillation" in prefix and pooling == "cls"
    used = {"cls": pooling == "cls", "distillation": distilled}
    pooled = [name for name in prefix if used.get(name)]
    hidden = shape_of(path, stored, "blocks.0.mlp.fc1.weight", rank=2)[0]
    contracted = shape_of(path, stored, "blocks.0.mlp.fc2.weight", rank=2)[1]
    gated = hidden == 2 * contracted
    num_classes = num_classes_of(path, stored, "head.weight", 0, num_classes)
    config = ViTConfig(
        patch_size=tuple(patch_size),
        channels=channels,
        width=width,
        depth=count_blocks(path, stored, r"blocks\.(\d+)\."),
        num_heads=_heads(
            path, config_path, stored, model_args, architecture, width, "cls" in prefix, num_heads
        ),
        mlp_width=contracted,
        mlp="swiglu" if gated else _mlp(config_path, model_args, architecture),
        pooling=pooling,
        distilled=distilled,
        registers=sum(length for name, length in lengths.items() if name not in pooled),
        qk_norm="blocks.0.attn.q_norm.weight" in stored,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in stored else None,
    )
    table = _table(config, lengths, rows)
    if num_classes is not None:
        table |= torch_linear("head", "head", width, num_classes)
        if distilled:
            table |= torch_linear("head_distillation", "head_dist", width, num_classes)
    # With no_embed_class only the patches have positions.
    size = get_setting(config_path, pretrained_cfg, "input_size", list, [])[1:] or None
    size = get_size_setting(config_path, {"input_size": size}, "input_size")
    size = get_size_setting(config_path, model_args, "img_size", size)
    counts = [rows - sum(lengths.values()), rows] if prefix else [rows]
    grid = find_grid(path, counts, config.patch_size, size, hint=image_size)
    tensors = load_tensors(path, stored, table, ignored=() if num_classes else ("head.", "head_dist."))
    arrange_positions(tensors, prefix, pooled, num_patches=grid[0] * grid[1])
    default = IMAGENET if "distillation" in prefix else INCEPTION
    return Checkpoint(
        format="timm",
        config=config,
        image_size=(grid[0] * patch_size[0], grid[1] * patch_size[1]),
        num_classes=num_classes,
        labels=_labels(settings, pretrained_cfg, num_classes),
        preprocessing=normalisation(
            config_path, pretrained_cfg.get("mean"), pretrained_cfg.get("std"), default, channels
        ),
        tensors=tensors,
    )


def _pooling(config_path, settings, model_args, prefix):
    default = "token" if "cls" in prefix else "avg"
    pooling = get_setting(config_path, model_args, "global_pool", str, default)
    pooling = get_setting(config_path, settings, "global_pool", str, pooling)
    if pooling not in POOLINGS or model_args.get("pool_include_prefix"):
        pooling = "avg with pool_include_prefix" if pooling in POOLINGS else pooling
        raise InputError(f"{config_path}: global_pool is {pooling!r}; {' and '.join(POOLINGS)} can be read.")
    if pooling == "token" and "cls" not in prefix:
        raise InputError(f"{config_path}: global_pool is 'token', but there is no cls_token.")
    return POOLINGS[pooling]


def _mlp(config_path, model_args, architecture):
    activation = get_setting(config_path, model_args, "act_layer", str)
    if activation is not None:
        if activation not in ACTIVATIONS:
            raise InputError(f"{config_path}: act_layer is {activation!r}; ViT has {', '.join(ACTIVATIONS)}.")
        return ACTIVATIONS[activation]
    return "gelu_tanh" if architecture.startswith(GELU_TANH_ARCHITECTURES) else "gelu"


def _heads(path, config_path, stored, model_args, architecture, width, has_cls, hint):
    """From the file if it tells, else from the hint, else the published number for that width."""
    stated = get_setting(config_path, model_args, "num_heads", int)
    if "blocks.0.attn.q_norm.weight" in stored:
        stated = width // shape_of(path, stored, "blocks.0.attn.q_norm.weight", rank=1)[0]
    if stated is None:
        stated = next((n for name, n in HEADS_OF_ARCHITECTURE.items() if architecture.startswith(name)), None)
    if stated is not None or hint is not None:
        return resolve_num_heads(path, stated, hint)
    # Two models of width 768 without [CLS] are published: SigLIP's with 12 heads, I-JEPA's with 16.
    ambiguous = width == 768 and not has_cls and not architecture
    if width not in HEADS_OF_WIDTH or ambiguous:
        raise InputError(
            f"{path} does not tell how many attention heads its width of {width} is for: give num_heads=..."
        )
    return HEADS_OF_WIDTH[width]


def _table(config, lengths, rows):
    """{variable: its source}."""
    width, hidden = config.width, config.mlp_width
    gated = config.mlp == "swiglu"
    table = {
        "patches/projection/kernel": Source(
            "patch_embed.proj.weight", (width, config.channels, *config.patch_size), conv_kernel
        ),
        "patches/projection/bias": Source("patch_embed.proj.bias", (width,)),
        "positions/table": Source("pos_embed", (1, rows, width)),
        **{name: Source(PREFIX_TOKENS[name], (1, length, width)) for name, length in lengths.items()},
        **torch_norm("norm", "norm", width),
    }
    for i in range(config.depth):
        target, source = f"block_{i}/", f"blocks.{i}."
        table |= {
            **torch_norm(f"{target}norm_1", f"{source}norm1", width),
            **_slices(f"{target}attention/", ("query", "key", "value"), f"{source}attn.qkv", width, width),
            **torch_linear(
                f"{target}attention/output", f"{source}attn.proj", width, width, optional_bias=True
            ),
            **torch_norm(f"{target}norm_2", f"{source}norm2", width),
            # SwiGLUPacked: silu(first half) * second half
            **_slices(
                f"{target}mlp/",
                ("gate", "expand") if gated else ("expand",),
                f"{source}mlp.fc1",
                width,
                hidden,
            ),
            **torch_linear(f"{target}mlp/contract", f"{source}mlp.fc2", hidden, width),
        }
        if config.qk_norm:
            table |= torch_norm(
                f"{target}attention/query_norm", f"{source}attn.q_norm", width // config.num_heads
            )
            table |= torch_norm(
                f"{target}attention/key_norm", f"{source}attn.k_norm", width // config.num_heads
            )
        if config.layer_scale is not None:
            table[f"{target}scale_1/gamma"] = Source(f"{source}ls1.gamma", (width,))
            table[f"{target}scale_2/gamma"] = Source(f"{source}ls2.gamma", (width,))
    return table


def _slices(scope, parts, source, inputs, outputs):
    """The sources of several layers in one Linear of timm, whose weight is [len(parts) * outputs, inputs]."""
    table = {}
    for i, part in enumerate(parts):
        part_rows = slice(i * outputs, (i + 1) * outputs)
        total = len(parts) * outputs
        table[f"{scope}{part}/kernel"] = Source(
            f"{source}.weight", (total, inputs), lambda w, part_rows=part_rows: w[part_rows].T
        )
        table[f"{scope}{part}/bias"] = Source(
            f"{source}.bias", (total,), lambda b, part_rows=part_rows: b[part_rows], optional=True
        )
    return table


def _labels(settings, pretrained_cfg, num_classes):
    names = settings.get("label_names") or pretrained_cfg.get("label_names") or pretrained_cfg.get("labels")
    if not isinstance(names, list) or len(names) != num_classes:
        return None
    return [str(name) for name in names]
