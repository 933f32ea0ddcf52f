"""`load_model`: a `ViT` with the weights of a published checkpoint; `load_into`: the weights alone."""

from typing import Any

from keras_vit.config import Size, pair
from keras_vit.models.transfer import variables_by_name
from keras_vit.weights.checkpoint import check_no_mismatch
from keras_vit.weights.read import read_any_size

HEADS = ("head/", "head_distillation/")


def load_model(
    model_class: type,
    path: Any,
    num_classes: int | None = None,
    image_size: Size | None = None,
    num_heads: int | None = None,
    **changes: Any,
) -> Any:
    """A model with published weights.

    Args:
        model_class: `ViT`, or a subclass of it.
        path: see `read_checkpoint`.
        num_classes: None keeps the head of the file; another number than the file's gets a fresh one.
        image_size: None keeps the file's; positions are resized to another.
        num_heads: attention heads, for a file that does not tell.
        **changes: anything else to change, as in `ViT.rebuilt`.

    Returns:
        (the model, the `Checkpoint` as it was in the file).
    """
    checkpoint = read_any_size(path, num_classes=num_classes, image_size=image_size, num_heads=num_heads)
    model = model_class(
        checkpoint.config,
        image_size=checkpoint.image_size,
        num_classes=checkpoint.num_classes,
        preprocessing=checkpoint.preprocessing,
        activation=checkpoint.activation,
    )
    load_into(model, checkpoint)
    if num_classes not in (None, checkpoint.num_classes):
        changes["num_classes"] = num_classes
    if image_size is not None and pair(image_size, "image_size") != checkpoint.image_size:
        changes["image_size"] = image_size
    return (model.rebuilt(**changes) if changes else model), checkpoint


def load_into(model: Any, checkpoint: Any) -> Any:
    """Assign every variable of a `ViT` of the checkpoint's config and image size, in place.

    A model with another number of classes than the checkpoint keeps its own, fresh head.

    Raises:
        InputError: names the tensors that are missing, unknown or of another shape, the first five and
            a count. The model is then as it was.
    """
    variables = variables_by_name(model)
    tensors = dict(checkpoint.tensors)
    if model.num_classes != checkpoint.num_classes:
        for names in (variables, tensors):
            for name in [name for name in names if name.startswith(HEADS)]:
                del names[name]
    check_no_mismatch(
        f"the {checkpoint.format} checkpoint does not fit the model",
        missing=[name for name in variables if name not in tensors],
        unexpected=[name for name in tensors if name not in variables],
        mismatched=[
            f"{name} {list(tensors[name].shape)} instead of {list(variable.shape)}"
            for name, variable in variables.items()
            if name in tensors and tuple(variable.shape) != tensors[name].shape
        ],
    )
    for name, variable in variables.items():
        variable.assign(tensors[name])
