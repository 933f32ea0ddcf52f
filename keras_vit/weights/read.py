"""`read_checkpoint`: which format a path is, and the reader for it."""

from pathlib import Path
from typing import Any

from keras_vit.config import integer, pair
from keras_vit.errors import InputError
from keras_vit.weights import hugging_face, original, timm
from keras_vit.weights.checkpoint import Checkpoint, StoredTensor
from keras_vit.weights.npz_file import open_npz
from keras_vit.weights.safe_reading import CONVERT, PICKLED, read_json, refuse_pickle
from keras_vit.weights.safetensors_file import open_safetensors

# What goes before all names of a model that lies in another object: PyTorch's DataParallel and compile,
# Lightning, the TimmWrapper of transformers, flax.
PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.", "encoder.", "backbone.", "params/", "model/")


def read_checkpoint(
    path: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Checkpoint:
    """Read a published ViT or DeiT.

    Args:
        path: an original .npz, a .safetensors file of timm, or a folder of timm or Hugging Face with
            config.json and model.safetensors, in one piece or in shards.
        num_classes: number of classes that is wanted: a head for another number is left out, and
            `num_classes` of the result is then None. None takes the head of the file, if it has one.
        image_size: one integer or (height, width) that it was trained for, for a file that does not tell.
        num_heads: number of attention heads, for a file that does not tell.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: no checkpoint of a known format, a pickle, a damaged file, or a model with parts that
            `ViT` does not have; positions of another size than `image_size`.
    """
    checkpoint = read_any_size(path, num_classes, image_size, num_heads)
    if image_size is not None and pair(image_size, "image_size") != checkpoint.image_size:
        raise InputError(
            f"{path} is for images of {'x'.join(map(str, checkpoint.image_size))} pixels, not "
            f"image_size={pair(image_size, 'image_size')}: leave that out. (`load_model` resizes positions.)"
        )
    return checkpoint


def read_any_size(
    path: str | Path,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Checkpoint:
    """As `read_checkpoint`, but positions may be of another size than `image_size`, to be resized."""
    file = Path(path).expanduser()
    if num_heads is not None:
        integer("num_heads", num_heads, at_least=1)
    if num_classes is not None:
        integer("num_classes", num_classes, at_least=1)
    hints: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size, "num_heads": num_heads}
    if file.is_dir():
        file = _weights_in(file)
    elif not file.exists():
        raise InputError(
            f"{file} does not exist: give a checkpoint file or a folder that has been downloaded."
        )
    refuse_pickle(file)
    if file.suffix == ".npz":
        return original.read(file, without_prefix(open_npz(file)), **hints)
    if file.suffix != ".safetensors" and not file.name.endswith(".safetensors.index.json"):
        raise InputError(f"{file}: checkpoints end in .npz or .safetensors, or are folders.")
    stored, description = without_prefix(open_safetensors(file)), file.parent / "config.json"
    settings = read_json(description) if description.is_file() else {}
    if hugging_face.is_hugging_face(stored):
        if "model_type" not in settings:
            raise InputError(f"{file} is from Hugging Face: {description}, which belongs to it, is missing.")
        return hugging_face.read(file, stored, settings, **hints)
    if timm.is_timm(stored):
        return timm.read(file, stored, settings if "architecture" in settings else {}, **hints)
    raise InputError(
        f"{file} is no ViT of Hugging Face or timm: its {len(stored)} tensors are "
        f"{', '.join(list(stored)[:5])}, ..."
    )


def without_prefix(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors without what wrappers put before every name, such as "module." of DataParallel."""
    for _ in range(8):  # of several, one after the other
        shared = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in stored)]
        if not stored or not shared:
            break
        stored = {name.removeprefix(shared[0]): tensor for name, tensor in stored.items()}
    return stored


def _weights_in(folder):
    """The file with the weights in a folder."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    others = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".npz"))
    if len(others) == 1:
        return others[0]
    pickles = [file.name for file in folder.iterdir() if file.suffix in PICKLED]
    if pickles and not others:
        raise InputError(f"{folder} has its weights only as a pickle, {sorted(pickles)[0]}: {CONVERT}.")
    which = f"several: {', '.join(file.name for file in others[:5])}" if others else "no"
    raise InputError(f"{folder} has {which} weights: model.safetensors or one .npz was expected.")
