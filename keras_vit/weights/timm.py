"""ViT and DeiT of timm (huggingface/pytorch-image-models): safetensors, with config.json or bare.

The models are models/vision_transformer.py and models/deit.py there. A bare file does not tell the number
of heads (published widths do), the kind of GELU (taken to be the exact one), the pooling (taken to be [CLS]
if there is one) and the normalisation of pixels; config.json does.
"""

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError
from keras_vit.weights.checkpoint import (
    HALF,
    IMAGENET,
    Checkpoint,
    From,
    agree_on_heads,
    classes_of,
    conv_kernel,
    count_blocks,
    find_grid,
    gather,
    normalisation,
    settle_positions,
    shape_of,
    torch_linear,
    torch_norm,
)
from keras_vit.weights.safe_reading import setting, size_setting

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
FOREIGN = {  # part of a name -> what it means
    "attn_pool.": "attention pooling of its own kind",
    "conv_dw": "convolutions",
    "fc_norm.": "a norm after the pooling",
    "norm_pre.": "a norm before the blocks, as in CLIP",
    "patch_embed.backbone.": "a convolutional network before the blocks",
    "rel_pos": "relative positions of its own kind",
    "rope": "rotary positions of its own kind",
}
PREFIX = {"cls": "cls_token", "distillation": "dist_token", "registers": "reg_token"}  # in timm's order


def wrote(stored):
    """Whether the tensors have timm's names."""
    return "patch_embed.proj.weight" in stored


def read(path, stored, settings, num_classes, image_size, num_heads):
    """A `Checkpoint` from {name: Stored} and config.json, or {} without one."""
    for part, meaning in FOREIGN.items():
        found = [name for name in stored if part in name]
        if found:
            raise InputError(f"{path} has {meaning} ({found[0]}), which ViT does not have.")
    described = path.parent / "config.json"
    arguments = setting(described, settings, "model_args", dict, {})
    # Before version 0.9 of timm, the content of pretrained_cfg lay at the top.
    published = setting(described, settings, "pretrained_cfg", dict, settings)
    architecture = setting(described, settings, "architecture", str, "")

    width, channels, *patch_size = shape_of(path, stored, "patch_embed.proj.weight", rank=4)
    prefix = [ours for ours, theirs in PREFIX.items() if theirs in stored]
    lengths = {ours: shape_of(path, stored, PREFIX[ours], rank=3)[1] for ours in prefix}
    rows = shape_of(path, stored, "pos_embed", rank=3)[1]
    pooling = _pooling(described, settings, arguments, prefix)
    distilled = "distillation" in prefix and pooling == "cls"
    used = {"cls": pooling == "cls", "distillation": distilled}
    pooled = [ours for ours in prefix if used.get(ours)]
    hidden = shape_of(path, stored, "blocks.0.mlp.fc1.weight", rank=2)[0]
    contracted = shape_of(path, stored, "blocks.0.mlp.fc2.weight", rank=2)[1]
    gated = hidden == 2 * contracted
    num_classes = classes_of(path, stored, "head.weight", 0, num_classes)
    config = ViTConfig(
        patch_size=tuple(patch_size),
        channels=channels,
        width=width,
        depth=count_blocks(path, stored, r"blocks\.(\d+)\."),
        num_heads=_heads(path, described, stored, arguments, architecture, width, "cls" in prefix, num_heads),
        mlp_width=contracted,
        mlp="swiglu" if gated else _mlp(described, arguments, architecture),
        pooling=pooling,
        distilled=distilled,
        registers=sum(length for ours, length in lengths.items() if ours not in pooled),
        qk_norm="blocks.0.attn.q_norm.weight" in stored,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in stored else None,
    )
    table = _table(config, lengths, rows)
    if num_classes is not None:
        table |= torch_linear("head", "head", width, num_classes)
        if distilled:
            table |= torch_linear("head_distillation", "head_dist", width, num_classes)
    # With no_embed_class only the patches have positions.
    size = setting(described, published, "input_size", list, [])[1:] or None
    size = size_setting(described, {"input_size": size}, "input_size")
    size = size_setting(described, arguments, "img_size", size)
    counts = [rows - sum(lengths.values()), rows] if prefix else [rows]
    grid = find_grid(path, counts, config.patch_size, size, hint=image_size)
    tensors = gather(path, stored, table, ignored=() if num_classes else ("head.", "head_dist."))
    settle_positions(tensors, prefix, pooled, patches=grid[0] * grid[1])
    default = IMAGENET if "distillation" in prefix else HALF
    return Checkpoint(
        format="timm",
        config=config,
        image_size=(grid[0] * patch_size[0], grid[1] * patch_size[1]),
        num_classes=num_classes,
        labels=_labels(settings, published, num_classes),
        preprocessing=normalisation(
            described, published.get("mean"), published.get("std"), default, channels
        ),
        tensors=tensors,
    )


def _pooling(described, settings, arguments, prefix):
    default = "token" if "cls" in prefix else "avg"
    kind = setting(described, arguments, "global_pool", str, default)
    kind = setting(described, settings, "global_pool", str, kind)
    if kind not in POOLINGS or arguments.get("pool_include_prefix"):
        kind = "avg with pool_include_prefix" if kind in POOLINGS else kind
        raise InputError(f"{described}: global_pool is {kind!r}; {' and '.join(POOLINGS)} can be read.")
    if kind == "token" and "cls" not in prefix:
        raise InputError(f"{described}: global_pool is 'token', but there is no cls_token.")
    return POOLINGS[kind]


def _mlp(described, arguments, architecture):
    activation = setting(described, arguments, "act_layer", str)
    if activation is not None:
        if activation not in ACTIVATIONS:
            raise InputError(f"{described}: act_layer is {activation!r}; ViT has {', '.join(ACTIVATIONS)}.")
        return ACTIVATIONS[activation]
    return "gelu_tanh" if architecture.startswith(GELU_TANH_ARCHITECTURES) else "gelu"


def _heads(path, described, stored, arguments, architecture, width, has_cls, hint):
    """From the file if it tells, else from the hint, else the published number for that width."""
    told = setting(described, arguments, "num_heads", int)
    if "blocks.0.attn.q_norm.weight" in stored:
        told = width // shape_of(path, stored, "blocks.0.attn.q_norm.weight", rank=1)[0]
    if told is None:
        told = next((n for name, n in HEADS_OF_ARCHITECTURE.items() if architecture.startswith(name)), None)
    if told is not None or hint is not None:
        return agree_on_heads(path, told, hint)
    # Two models of width 768 without [CLS] are published: SigLIP's with 12 heads, I-JEPA's with 16.
    ambiguous = width == 768 and not has_cls and not architecture
    if width not in HEADS_OF_WIDTH or ambiguous:
        raise InputError(
            f"{path} does not tell how many attention heads its width of {width} is for: give num_heads=..."
        )
    return HEADS_OF_WIDTH[width]


def _table(config, lengths, rows):
    """{our name: where it comes from}."""
    width, hidden = config.width, config.mlp_width
    gated = config.mlp == "swiglu"
    table = {
        "patches/projection/kernel": From(
            "patch_embed.proj.weight", (width, config.channels, *config.patch_size), conv_kernel
        ),
        "patches/projection/bias": From("patch_embed.proj.bias", (width,)),
        "positions/table": From("pos_embed", (1, rows, width)),
        **{ours: From(PREFIX[ours], (1, length, width)) for ours, length in lengths.items()},
        **torch_norm("norm", "norm", width),
    }
    for i in range(config.depth):
        ours, theirs = f"block_{i}/", f"blocks.{i}."
        table |= {
            **torch_norm(f"{ours}norm_1", f"{theirs}norm1", width),
            **_slices(f"{ours}attention/", ("query", "key", "value"), f"{theirs}attn.qkv", width, width),
            **torch_linear(f"{ours}attention/output", f"{theirs}attn.proj", width, width, optional_bias=True),
            **torch_norm(f"{ours}norm_2", f"{theirs}norm2", width),
            # SwiGLUPacked: silu(first half) * second half
            **_slices(
                f"{ours}mlp/", ("gate", "expand") if gated else ("expand",), f"{theirs}mlp.fc1", width, hidden
            ),
            **torch_linear(f"{ours}mlp/contract", f"{theirs}mlp.fc2", hidden, width),
        }
        if config.qk_norm:
            table |= torch_norm(
                f"{ours}attention/query_norm", f"{theirs}attn.q_norm", width // config.num_heads
            )
            table |= torch_norm(
                f"{ours}attention/key_norm", f"{theirs}attn.k_norm", width // config.num_heads
            )
        if config.layer_scale is not None:
            table[f"{ours}scale_1/gamma"] = From(f"{theirs}ls1.gamma", (width,))
            table[f"{ours}scale_2/gamma"] = From(f"{theirs}ls2.gamma", (width,))
    return table


def _slices(scope, parts, theirs, inputs, outputs):
    """Several of our layers from one Linear of timm, whose weight is [len(parts) * outputs, inputs]."""
    table = {}
    for i, part in enumerate(parts):
        own = slice(i * outputs, (i + 1) * outputs)
        total = len(parts) * outputs
        table[f"{scope}{part}/kernel"] = From(
            f"{theirs}.weight", (total, inputs), lambda w, own=own: w[own].T
        )
        table[f"{scope}{part}/bias"] = From(
            f"{theirs}.bias", (total,), lambda b, own=own: b[own], optional=True
        )
    return table


def _labels(settings, published, num_classes):
    names = settings.get("label_names") or published.get("label_names") or published.get("labels")
    if not isinstance(names, list) or len(names) != num_classes:
        return None
    return [str(name) for name in names]
