"""Starting from weights that exist: `import_run` makes a RUN of a checkpoint, `load_start` reads any."""

import hashlib
from pathlib import Path

from keras_vit import __version__
from keras_vit.answers import default_labels, labels_fit, output_name
from keras_vit.errors import InputError
from keras_vit.files import MOST_LABELS, atomic_directory, read_regular, write_json
from keras_vit.labels import checked_labels
from keras_vit.models import MaskedViT, ViT
from keras_vit.models.checkpoints import load_model
from keras_vit.models.saved import load_saved
from keras_vit.training.recipes import recipe
from keras_vit.training.runs import read_run


def import_run(path, out, num_classes=None, labels=None, image_size=None, num_heads=None):
    """Make the RUN folder `out` from a published checkpoint. It appears whole or not at all.

    Args:
        path: an original .npz, a timm .safetensors or a Hugging Face folder.
        out: a folder that does not exist or is empty.
        num_classes: None keeps the checkpoint's head; a number gets a fresh one.
        labels: a text file with one class name in each line; by default the checkpoint's names,
            or "0", "1", ...
        image_size: another (height, width): positions are resized.
        num_heads: attention heads, for a file that does not say.

    Returns:
        (the `ViT`, the name of the checkpoint's format).

    Raises:
        InputError: no such checkpoint, `out` is not empty, no head and no `num_classes`, labels that do not
            fit.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty: give another --out.")
    names = _read_labels(labels) if labels is not None else None
    if names is not None and num_classes is None:
        num_classes = len(names)
    model, checkpoint = load_model(
        ViT, path, num_classes=num_classes, image_size=image_size, num_heads=num_heads
    )
    if model.num_classes is None:
        raise InputError(f"{path} has no head: say --num-classes N (or --labels FILE) for a fresh one.")
    if names is None:
        kept = checkpoint.labels if model.num_classes == checkpoint.num_classes else None
        names = kept or default_labels(model.num_classes, output_name(model.activation))
    try:
        names = checked_labels(names)
    except InputError as error:
        raise InputError(f"{labels or path}: {error} --labels FILE gives others.") from None
    if not labels_fit(len(names), model.num_classes, output_name(model.activation)):
        raise InputError(
            f"{labels} names {len(names)} classes, and the model has {model.num_classes}: name each."
        )
    chosen = recipe(image_size=model.image_size, variant=model.config.to_dict(), pooling=model.config.pooling)
    with atomic_directory(out) as folder:
        model.save(folder / "model.keras")
        (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        write_json(folder / "history.json", [])
        write_json(
            folder / "config.json",
            {
                "format": 1,
                "keras_vit": __version__,
                "labels": names,
                "data": {"source": None, "fingerprint": None},
                "checkpoint": {
                    "source": Path(path).name,
                    "format": checkpoint.format,
                    "sha256": _digest(Path(path)),
                },
                "recipe": chosen.to_dict(),
            },
        )
    return model, checkpoint.format


def load_start(path, option="--start"):
    """The `ViT` that fine-tuning starts from: of a RUN folder, a model.keras or a checkpoint.

    Of a pretraining RUN, it is the encoder. `option` is what errors call it.
    """
    path = Path(path)
    if (path / "model.keras").is_file():
        read_run(path)
        path = path / "model.keras"
    if path.suffix != ".keras":
        try:
            return ViT.from_checkpoint(path)
        except InputError as error:
            if not any(
                f"{argument}=" in str(error) for argument in ("num_heads", "num_classes", "image_size")
            ):
                raise
            # which this command has no options for
            raise InputError(
                f"{error} (`keras-vit import {path} --out RUN` takes those as options; then {option} RUN.)"
            ) from error
    if not path.exists():
        raise InputError(f"{path} does not exist: {option} takes a RUN, a model.keras or a checkpoint.")
    model = load_saved(path, f"{option} takes a RUN, a model.keras or a checkpoint")
    if isinstance(model, MaskedViT):
        model = model.encoder
    if not isinstance(model, ViT):
        raise InputError(f"{path} holds a {type(model).__name__}, not a ViT: {option} takes the float model.")
    return model


def start_options(model, variant, pooling):
    """(variant, pooling) of the recipe that fine-tunes `model`; the user's, where they do not clash."""
    if variant is not None:
        raise InputError(f"--variant {variant} with --start: the variant is that of the model. Leave it out.")
    return model.config.to_dict(), pooling or model.config.pooling


def _read_labels(path):
    try:
        names = read_regular(path, MOST_LABELS).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read ({error}): --labels takes a text file in UTF-8.") from None
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError(f"{path} is empty: --labels takes one class name in each line.")
    return names


def _digest(path):
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
