"""What the readers share: a `Checkpoint`, and tables that say where each of its tensors comes from."""

import dataclasses
import math
import re
import warnings
from collections.abc import Callable

import numpy as np

from keras_vit.config import ViTConfig, pair
from keras_vit.errors import InputError, Notice
from keras_vit.modalities.pixels import for_channels

# (pixel / 255 - mean) / std: of the original ViT, and of ImageNet's pixels, which DeiT was trained with.
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A published ViT in our words.

    Attributes:
        format: "original", "hugging_face" or "timm".
        config: the shape of the model.
        image_size: (height, width) that its positions are made for.
        num_classes: number of classes, or None without a head.
        labels: their names in order, or None.
        preprocessing: {"mean": [C], "std": [C]} of pixels in [0, 1].
        tensors: {variable name as in `ViT`, without the model's own: float32 array}.
        activation: what the logits of its head mean, as in `ViT`.
    """

    format: str
    config: ViTConfig
    image_size: tuple
    num_classes: int | None
    labels: list | None
    preprocessing: dict
    tensors: dict
    activation: str | None = "auto"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file: its shape, and `read()`, which returns it as float32."""

    shape: tuple
    read: Callable


@dataclasses.dataclass(frozen=True)
class From:
    """Where a variable of ours comes from.

    Attributes:
        name: the tensor in the file.
        shape: that it must have there.
        convert: array in the file -> array of ours.
        optional: zeros if the file does not have it (a bias that the source left out).
    """

    name: str
    shape: tuple
    convert: Callable = np.asarray
    optional: bool = False


def conv_kernel(kernel):
    """A convolution of PyTorch [D, C, h, w] as the matrix of `Patches` [h * w * C, D]."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def torch_linear(ours, theirs, inputs, outputs, optional_bias=False):
    """{ours/kernel, ours/bias} from a PyTorch Linear, whose weight is [outputs, inputs]."""
    return {
        f"{ours}/kernel": From(f"{theirs}.weight", (outputs, inputs), np.transpose),
        f"{ours}/bias": From(f"{theirs}.bias", (outputs,), optional=optional_bias),
    }


def torch_norm(ours, theirs, width):
    """{ours/scale, ours/shift} from a PyTorch LayerNorm."""
    return {
        f"{ours}/scale": From(f"{theirs}.weight", (width,)),
        f"{ours}/shift": From(f"{theirs}.bias", (width,)),
    }


def gather(path, stored, table, ignored=()):
    """{our name: float32 array} by a table {our name: From}.

    All names and shapes are checked before anything is read.

    Args:
        path: of the file, for messages.
        stored: {name in the file: Stored}.
        table: {our name: From}.
        ignored: beginnings of names in the file that belong to another task than ours.

    Raises:
        InputError: names the tensors that are missing, that the table does not know, whose shape is
            another, or that hold NaN or infinity: the first five and a count.
    """
    needed = {source.name: source for source in table.values()}
    missing = [name for name, source in needed.items() if name not in stored and not source.optional]
    unused = [name for name in stored if name not in needed and not name.startswith(tuple(ignored))]
    wrong = [
        f"{name} {list(stored[name].shape)} instead of {list(source.shape)}"
        for name, source in needed.items()
        if name in stored and stored[name].shape != source.shape
    ]
    check_no_mismatch(f"{path} is not a ViT that this package knows", missing, unused, wrong)
    tensors, bad = {}, {}
    for ours, source in table.items():
        found = stored[source.name].read() if source.name in stored else np.zeros(source.shape, "float32")
        if not np.isfinite(found).all():
            bad[source.name] = None  # one tensor of a file can be several of ours
        tensors[ours] = np.ascontiguousarray(source.convert(found))
    if bad:
        raise InputError(
            f"{path} holds NaN or infinity in {len(bad)} tensors ({', '.join(list(bad)[:5])}"
            f"{', ...' if len(bad) > 5 else ''}): it is damaged, or its training failed. Get another copy."
        )
    return tensors


def check_no_mismatch(what, missing, unused, wrong):
    """Raise `InputError` that lists tensors, five of each kind and a count; nothing if there are none."""
    found = [
        f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for kind, names in (("missing", missing), ("unknown", unused), ("of another shape", wrong))
        if names
    ]
    if found:
        raise InputError(f"{what}: its tensors are {'; '.join(found)}.")


def shape_of(path, stored, name, rank):
    """The shape of a tensor that everything else depends on."""
    if name not in stored:
        raise InputError(f"{path} is not a ViT that this package knows: it has no tensor {name}.")
    shape = stored[name].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{path}: {name} has shape {list(shape)}; {rank} axes were expected, none empty.")
    return shape


def count_blocks(path, stored, pattern):
    """How many blocks there are, from names that match `pattern`, whose group is the block's number."""
    # Counted, not taken from the highest number: a name can claim any.
    numbers = {match[1] for name in stored if (match := re.match(pattern, name))}
    gaps = [str(i) for i in range(len(numbers)) if str(i) not in numbers]
    if gaps or not numbers:
        missing = f"block {', '.join(gaps[:5])} is missing" if gaps else "it has no blocks"
        raise InputError(f"{path} is not a whole ViT: {missing} among {len(numbers)}.")
    return len(numbers)


def find_grid(path, counts, patch_size, image_size=None, hint=None):
    """(rows, columns) of the patches that a position table is made for.

    Args:
        path: of the file, for messages.
        counts: numbers of patches that the table's length allows (with and without class tokens).
        patch_size: (h, w).
        image_size: (height, width) as the file itself says, or None.
        hint: what the user says; asked only when the file does not tell. Without it, or where it does not
            fit, a square number of patches is a square (of another size, positions are resized).
    """
    sizes = {}
    if image_size is not None:
        sizes["the file's"] = image_size
    squares = [math.isqrt(count) for count in counts if count > 0 and math.isqrt(count) ** 2 == count]
    if hint is not None:
        sizes["the given"] = pair(hint, "image_size")
    if len(squares) == 1:
        side = squares[0]
        sizes["square"] = (side * patch_size[0], side * patch_size[1])
    for height, width in sizes.values():
        grid = (height // patch_size[0], width // patch_size[1])
        if grid[0] * grid[1] not in counts or 0 in grid:
            continue
        given = sizes.get("the given", (height, width))
        if given[0] != given[1] and given != (height, width) and image_size is None:
            warnings.warn(
                Notice(
                    f"{path} does not tell its grid: it is taken for {grid[0]}x{grid[1]} patches, and "
                    f"resized to {given[0]}x{given[1]} pixels. If it was trained for another, read it with "
                    "image_size=(height, width) of that."
                ),
                stacklevel=2,
            )
        return grid
    patches = f"{patch_size[0]}x{patch_size[1]} pixels"
    needed = f"{path}: its position table is for {' or '.join(map(str, counts))} patches of {patches}"
    if hint is not None:
        size = sizes["the given"]
        rows, columns = size[0] // patch_size[0], size[1] // patch_size[1]
        raise InputError(
            f"{needed}, and image_size={size} has {rows}x{columns} = {rows * columns}: give the size that it "
            "was trained for."
        )
    raise InputError(
        f"{needed}, in a grid that the file does not tell: give image_size=(height, width), the size that it "
        "was trained for."
    )


def agree_on_heads(path, told, hint):
    """The number of heads: what the file tells, which a user's hint must not contradict, or else the hint."""
    if told is not None and hint is not None and told != hint:
        raise InputError(f"{path} has {told} attention heads, not num_heads={hint}: leave that out.")
    return hint if told is None else told


def classes_of(path, stored, head, axis, wanted):
    """Number of classes of a head, its length along `axis`; None without a head or if another is wanted."""
    if head not in stored:
        return None
    found = shape_of(path, stored, head, rank=2)[axis]
    return found if wanted in (None, found) else None


def normalisation(path, mean, std, default, channels=3):
    """{"mean", "std"} for a `ViT` of so many channels, or `default` where a file does not give both.

    A file that was made from one for RGB may still have three, see `for_channels`. One number is for all.

    Raises:
        InputError: something else than numbers, NaN or infinity, or a deviation that is not above 0.
    """
    if mean is None or std is None:
        return for_channels(default, channels)
    found = {}
    for name, given in (("mean", mean), ("std", std)):
        numbers = given if isinstance(given, list) else [given]
        sound = all(type(x) in (int, float) and abs(x) < 1e9 and (name == "mean" or x > 0) for x in numbers)
        if not sound or len(numbers) not in (1, 3, channels):
            raise InputError(
                f"{path}: the {name} that pixels are normalised with is {given!r}; {channels} finite numbers "
                f"{'above 0 ' if name == 'std' else ''}were expected: put in those of the training."
            )
        found[name] = [float(x) for x in numbers]
    if len({len(numbers) for numbers in found.values()}) > 1:
        found = {name: numbers * (3 // len(numbers)) for name, numbers in found.items()}
    return for_channels(found, channels)


def settle_positions(tensors, prefix, read, patches):
    """Bring positions and the tokens before the patches into our form, in place.

    Sources differ in which of these tokens have a position. With us exactly those that are read at the
    end do (zeros if the source has none), and all others are registers, whose position is added here.

    Args:
        tensors: ours; "positions/table" [1, patches or patches + prefix tokens, D].
        prefix: names of the tokens before the patches, in the source's order, each [1, n, D].
        read: those of them whose output the heads or the pooling read, in our order.
        patches: number of patches.
    """
    table = tensors.pop("positions/table")
    values = {name: tensors.pop(name) for name in prefix}
    length, width = sum(value.shape[1] for value in values.values()), table.shape[2]
    rows = table[:, :-patches] if table.shape[1] > patches else np.zeros((1, length, width), "float32")
    split = (
        np.split(rows, np.cumsum([value.shape[1] for value in values.values()])[:-1], axis=1)
        if prefix
        else []
    )
    rows = dict(zip(prefix, split, strict=True))
    tensors.update({name: values[name] for name in read})
    tensors["positions/table"] = np.concatenate([*(rows[name] for name in read), table[:, -patches:]], axis=1)
    registers = [values[name] + rows[name] for name in prefix if name not in read]
    if registers:
        tensors["registers"] = np.concatenate(registers, axis=1)
