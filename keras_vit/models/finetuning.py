"""What fine-tuning needs to know of a ViT: its parameters by depth, which decay, and which to freeze."""

from typing import Any

from keras_vit.config import integer
from keras_vit.errors import InputError
from keras_vit.models.transfer import name_within


def layer_groups(model: Any) -> list[list]:
    """The trainable variables of a `ViT` by depth: a list of depth + 2 lists.

    The first holds what makes tokens (patches, [CLS], registers, positions), then one for each block, and
    the last what ends them (norm, pooling, heads). A merger belongs to the block that it precedes.
    """
    groups: list[list] = [[] for _ in range(model.config.depth + 2)]
    for variable in model.trainable_variables:
        part = name_within(model, variable).split("/")[0]
        if part.startswith("block_"):
            depth = int(part.removeprefix("block_")) + 1
        elif part == "merger":
            depth = model.config.merge[0] + 1
        else:
            depth = len(groups) - 1 if part in ("norm", "pool", "head", "head_distillation") else 0
        groups[depth].append(variable)
    return groups


def learning_rate_scales(model: Any, decay: float) -> dict[str, float]:
    """{variable path: factor} for layer-wise learning-rate decay (Bao et al. 2021, arXiv:2106.08254, A).

    The head's group has factor 1, and each step down multiplies by `decay`.

    Args:
        model: a `ViT`.
        decay: in (0, 1]; 0.65 to 0.9 are usual.
    """
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise InputError(f"layer decay must be above 0 and at most 1, not {decay!r}.")
    groups = layer_groups(model)
    return {
        variable.path: decay ** (len(groups) - 1 - depth)
        for depth, group in enumerate(groups)
        for variable in group
    }


def is_decayed(variable: Any) -> bool:
    """Whether weight decay applies: to matrices only, not to biases, norms, positions or lone tokens."""
    return variable.path.endswith("kernel") and "/positions/" not in variable.path


def freeze(model: Any, depth: int) -> None:
    """Stop training what makes tokens and the first `depth` blocks of a `ViT`, in place; 0 thaws all.

    Compile the model afterwards: Keras collects the trainable variables there.
    """
    if integer("freeze", depth, at_least=0) > model.config.depth:
        raise InputError(f"the model has {model.config.depth} blocks: it cannot freeze {depth}.")
    model.trainable = True
    stem = [model.patches, model.positions]
    for layer in (*stem, *model.blocks[:depth]):
        layer.trainable = depth == 0
    for layer in model.blocks[depth:]:
        layer.trainable = True
    for name in ("cls", "distillation", "registers"):
        if hasattr(model, name):
            getattr(model, name).trainable = depth == 0
    if model.merger is not None:
        model.merger.trainable = depth <= model.config.merge[0]
