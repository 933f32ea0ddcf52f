"""ViT and DeiT of Hugging Face transformers: a folder with config.json and model.safetensors.

The models are models/vit/modeling_vit.py and models/deit/modeling_deit.py there. In the course of version 5
the tensors were renamed (conversion_mapping.py, "ViTModel"). Both forms are around: the new library
still writes the old names unless told otherwise.
"""

import re
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
from keras_vit.weights.position_tables import arrange_positions
from keras_vit.weights.safe_reading import get_setting, get_size_setting, read_json

OLD = {
    "block": "encoder.layer.{}.",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "output": "attention.output.dense",
    "expand": "intermediate.dense",
    "contract": "output.dense",
}
NEW = {
    "block": "layers.{}.",
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "output": "attention.o_proj",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
BASES = ("vit.", "deit.", "")  # the last for a bare backbone
PATCHES = "embeddings.patch_embeddings.projection"
ACTIVATIONS = {  # hidden_act -> mlp
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

PROBLEMS = {  # problem_type, which says what the model was trained for -> activation
    None: "auto",
    "single_label_classification": "auto",
    "multi_label_classification": "sigmoid",
    "regression": None,
}


def is_hugging_face(stored: Mapping[str, StoredTensor]) -> bool:
    """Whether the tensors have the names of transformers."""
    return any(f"{base}{PATCHES}.weight" in stored for base in BASES)


def read(
    path: Path,
    stored: Mapping[str, StoredTensor],
    settings: Mapping[str, Any],
    num_classes: int | None,
    image_size: int | tuple[int, int] | None,
    num_heads: int | None,
) -> Checkpoint:
    """The checkpoint of these tensors and config.json, which has the image size: its hint is not used."""
    config_path = path.parent / "config.json"
    family = settings["model_type"]
    if family not in ("vit", "deit"):
        raise InputError(f"{config_path}: model_type is {family!r}; vit and deit can be read.")
    activation = get_setting(config_path, settings, "hidden_act", str, "gelu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"{config_path}: hidden_act is {activation!r}; ViT has {known}.")
    problem = get_setting(config_path, settings, "problem_type", str)
    if problem not in PROBLEMS:
        known = ", ".join(filter(None, PROBLEMS))
        raise InputError(f"{config_path}: problem_type is {problem!r}; ViT has {known}.")
    base = next(base for base in BASES if f"{base}{PATCHES}.weight" in stored)
    names = NEW if any(name.startswith(f"{base}layers.") for name in stored) else OLD

    # Defaults are those of ViTConfig and DeiTConfig in transformers.
    patch_size = shape_of(path, stored, f"{base}{PATCHES}.weight", rank=4)[2:]
    size = get_size_setting(config_path, settings, "image_size", 224)
    grid = (size[0] // patch_size[0], size[1] // patch_size[1])
    depth = get_setting(config_path, settings, "num_hidden_layers", int, 12)
    pattern = re.escape(base + names["block"]).replace(r"\{\}", r"(\d+)")
    if depth != (count := count_blocks(path, stored, pattern)):
        raise InputError(f"{path} has {count} blocks, but {config_path} says {depth}.")

    # A distillation token that no head reads is a register.
    distilled = family == "deit" and "cls_classifier.weight" in stored
    prefix = ["cls", "distillation"] if family == "deit" else ["cls"]
    head = "cls_classifier" if distilled else "classifier"
    num_classes = num_classes_of(path, stored, f"{head}.weight", 0, num_classes)
    config = ViTConfig(
        patch_size=patch_size,
        channels=get_setting(config_path, settings, "num_channels", int, 3),
        width=get_setting(config_path, settings, "hidden_size", int, 768),
        depth=depth,
        num_heads=resolve_num_heads(
            path, get_setting(config_path, settings, "num_attention_heads", int, 12), num_heads
        ),
        mlp_width=get_setting(config_path, settings, "intermediate_size", int, 3072),
        mlp=ACTIVATIONS[activation],
        epsilon=get_setting(config_path, settings, "layer_norm_eps", float, 1e-12),
        distilled=distilled,
        registers=len(prefix) - 1 - distilled,
    )
    table = _table(config, base, names, prefix, rows=len(prefix) + grid[0] * grid[1])
    if num_classes is not None:
        table |= torch_linear("head", head, config.width, num_classes)
        if distilled:
            table |= torch_linear("head_distillation", "distillation_classifier", config.width, num_classes)
    # A bare backbone has a pooler (a tanh layer that no image classifier uses), and one that was pretrained
    # by masking has a decoder and a mask token: parts for other tasks.
    ignored = [f"{base}pooler.", f"{base}embeddings.mask_token", "decoder."]
    if num_classes is None:
        ignored += ["classifier.", "cls_classifier.", "distillation_classifier."]
    tensors = load_tensors(path, stored, table, ignored)
    arrange_positions(tensors, prefix, prefix[: 1 + distilled], num_patches=grid[0] * grid[1])
    return Checkpoint(
        format="hugging_face",
        config=config,
        image_size=(grid[0] * patch_size[0], grid[1] * patch_size[1]),
        num_classes=num_classes,
        labels=_labels(settings, num_classes),
        preprocessing=_preprocessing(
            path.parent, IMAGENET if family == "deit" else INCEPTION, config.channels
        ),
        tensors=tensors,
        activation=PROBLEMS[problem],
    )


def _table(config, base, names, prefix, rows):
    """{variable: its source}."""
    width = config.width
    tokens = {"cls": "cls_token", "distillation": "distillation_token"}
    table = {
        "patches/projection/kernel": Source(
            f"{base}{PATCHES}.weight", (width, config.channels, *config.patch_size), conv_kernel
        ),
        "patches/projection/bias": Source(f"{base}{PATCHES}.bias", (width,)),
        "positions/table": Source(f"{base}embeddings.position_embeddings", (1, rows, width)),
        **{name: Source(f"{base}embeddings.{tokens[name]}", (1, 1, width)) for name in prefix},
        **torch_norm("norm", f"{base}layernorm", width),
    }
    for i in range(config.depth):
        target, block = f"block_{i}/", base + names["block"].format(i)
        table |= {
            **torch_norm(f"{target}norm_1", f"{block}layernorm_before", width),
            # qkv_bias=False leaves these biases out
            **torch_linear(
                f"{target}attention/query", block + names["query"], width, width, optional_bias=True
            ),
            **torch_linear(f"{target}attention/key", block + names["key"], width, width, optional_bias=True),
            **torch_linear(
                f"{target}attention/value", block + names["value"], width, width, optional_bias=True
            ),
            **torch_linear(f"{target}attention/output", block + names["output"], width, width),
            **torch_norm(f"{target}norm_2", f"{block}layernorm_after", width),
            **torch_linear(f"{target}mlp/expand", block + names["expand"], width, config.mlp_width),
            **torch_linear(f"{target}mlp/contract", block + names["contract"], config.mlp_width, width),
        }
    return table


def _labels(settings, num_classes):
    """The names in id2label in the order of their numbers; None for the placeholders LABEL_0, LABEL_1, ..."""
    names = settings.get("id2label")
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(num_classes or 0)}:
        return None
    labels = [str(names[str(i)]) for i in range(num_classes)]
    return None if labels == [f"LABEL_{i}" for i in range(num_classes)] else labels


def _preprocessing(folder, default, channels):
    description = folder / "preprocessor_config.json"
    settings = read_json(description) if description.is_file() else {}
    if settings.get("do_normalize") is False:
        return {"mean": [0.0] * channels, "std": [1.0] * channels}
    return normalisation(
        description, settings.get("image_mean"), settings.get("image_std"), default, channels
    )
