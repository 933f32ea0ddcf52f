"""What the readers share: `Checkpoint`, and tables that map a file's tensors to the variables of a `ViT`."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.config import ViTConfig
from keras_vit.errors import InputError
from keras_vit.modalities.pixels import for_channels

# (pixel / 255 - mean) / std, under the names that timm has: the original ViT is trained with the one of
# Inception, DeiT with the statistics of ImageNet.
INCEPTION = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A published ViT: its config, and its tensors under the names of `ViT`.

    Attributes:
        format: "original", "hugging_face" or "timm".
        config: the shape of the model.
        image_size: (height, width) that its positions are made for.
        num_classes: number of classes, or None without a head.
        labels: their names in order, or None.
        preprocessing: {"mean": [C], "std": [C]} of pixels in [0, 1].
        tensors: {variable of `ViT`, without the model's name: float32 array}.
        activation: what the logits of its head mean, as in `ViT`.
    """

    format: str
    config: ViTConfig
    image_size: tuple[int, int]
    num_classes: int | None
    labels: list[str] | None
    preprocessing: dict[str, list[float]]
    tensors: dict[str, np.ndarray]
    activation: str | None = "auto"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a file: its shape, and `read()`, which returns it as float32."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor that a variable comes from.

    Attributes:
        name: the tensor in the file.
        shape: its shape in the file.
        convert: the array in the file -> the value of the variable.
        optional: if the file does not have it, the variable is zeros (a bias that the source left out).
    """

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    optional: bool = False


def conv_kernel(kernel: np.ndarray) -> np.ndarray:
    """A convolution of PyTorch [D, C, h, w] as the matrix of `Patches` [h * w * C, D]."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def torch_linear(
    target: str, source: str, inputs: int, outputs: int, optional_bias: bool = False
) -> dict[str, Source]:
    """{target/kernel, target/bias} from a PyTorch Linear, whose weight is [outputs, inputs]."""
    return {
        f"{target}/kernel": Source(f"{source}.weight", (outputs, inputs), np.transpose),
        f"{target}/bias": Source(f"{source}.bias", (outputs,), optional=optional_bias),
    }


def torch_norm(target: str, source: str, width: int) -> dict[str, Source]:
    """{target/scale, target/shift} from a PyTorch LayerNorm."""
    return {
        f"{target}/scale": Source(f"{source}.weight", (width,)),
        f"{target}/shift": Source(f"{source}.bias", (width,)),
    }


def load_tensors(
    path: Path,
    stored: Mapping[str, StoredTensor],
    table: Mapping[str, Source],
    ignored: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """{variable: float32 array} by a table.

    All names and shapes are checked before anything is read.

    Args:
        path: of the file, for messages.
        stored: {name in the file: StoredTensor}.
        table: {variable: Source}.
        ignored: prefixes of names in the file that are of no use for this model.

    Raises:
        InputError: names the tensors that are missing, that the table does not know, whose shape is
            another, or that hold NaN or infinity: the first five and a count.
    """
    needed = {source.name: source for source in table.values()}
    missing = [name for name, source in needed.items() if name not in stored and not source.optional]
    unexpected = [name for name in stored if name not in needed and not name.startswith(tuple(ignored))]
    mismatched = [
        f"{name} {list(stored[name].shape)} instead of {list(source.shape)}"
        for name, source in needed.items()
        if name in stored and stored[name].shape != source.shape
    ]
    check_no_mismatch(f"{path} is not a ViT that this package knows", missing, unexpected, mismatched)
    tensors, not_finite = {}, []
    for target, source in table.items():
        array = stored[source.name].read() if source.name in stored else np.zeros(source.shape, "float32")
        # One tensor of a file can become several variables.
        if not np.isfinite(array).all() and source.name not in not_finite:
            not_finite.append(source.name)
        tensors[target] = np.ascontiguousarray(source.convert(array))
    if not_finite:
        raise InputError(
            f"{path} holds NaN or infinity in {len(not_finite)} tensors ({', '.join(not_finite[:5])}"
            f"{', ...' if len(not_finite) > 5 else ''}): it is damaged, or its training failed. Get "
            "another copy."
        )
    return tensors


def check_no_mismatch(
    what: str, missing: Sequence[str], unexpected: Sequence[str], mismatched: Sequence[str]
) -> None:
    """Raise `InputError` unless the three lists of tensors are empty: the first five of each and a count."""
    problems = [
        f"{len(names)} {problem} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for problem, names in (
            ("missing", missing),
            ("unknown", unexpected),
            ("of another shape", mismatched),
        )
        if names
    ]
    if problems:
        raise InputError(f"{what}: its tensors are {'; '.join(problems)}.")


def shape_of(path: Path, stored: Mapping[str, StoredTensor], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in stored:
        raise InputError(f"{path} is not a ViT that this package knows: it has no tensor {name}.")
    shape = stored[name].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{path}: {name} has shape {list(shape)}; {rank} axes were expected, none empty.")
    return shape


def count_blocks(path: Path, stored: Iterable[str], pattern: str) -> int:
    """The number of blocks, from the names that match `pattern`, whose group is the block's number."""
    # Counted, not taken from the highest number: a name can claim any.
    numbers = {match[1] for name in stored if (match := re.match(pattern, name))}
    gaps = [str(i) for i in range(len(numbers)) if str(i) not in numbers]
    if gaps or not numbers:
        missing = f"block {', '.join(gaps[:5])} is missing" if gaps else "it has no blocks"
        raise InputError(f"{path} is not a whole ViT: {missing} among {len(numbers)}.")
    return len(numbers)


def resolve_num_heads(path: Path, stated: int | None, hint: int | None) -> int | None:
    """The number of heads: as the file states, which a user's hint must not contradict, or else the hint."""
    if stated is not None and hint is not None and stated != hint:
        raise InputError(f"{path} has {stated} attention heads, not num_heads={hint}: leave that out.")
    return hint if stated is None else stated


def num_classes_of(
    path: Path, stored: Mapping[str, StoredTensor], head: str, axis: int, wanted: int | None
) -> int | None:
    """Number of classes of a head, its length along `axis`; None without a head or if another is wanted."""
    if head not in stored:
        return None
    num_classes = shape_of(path, stored, head, rank=2)[axis]
    return num_classes if wanted in (None, num_classes) else None


def normalisation(
    path: Path, mean: Any, std: Any, default: dict[str, list[float]], channels: int = 3
) -> dict[str, list[float]]:
    """{"mean", "std"} for a `ViT` of so many channels, or `default` where a file does not give both.

    A file that was made from one for RGB may still have three, see `for_channels`. One number is for all.

    Raises:
        InputError: something else than numbers, NaN or infinity, or a deviation that is not above 0.
    """
    if mean is None or std is None:
        return for_channels(default, channels)
    values = {}
    for name, value in (("mean", mean), ("std", std)):
        numbers = value if isinstance(value, list) else [value]
        sound = all(type(x) in (int, float) and abs(x) < 1e9 and (name == "mean" or x > 0) for x in numbers)
        if not sound or len(numbers) not in (1, 3, channels):
            raise InputError(
                f"{path}: the {name} that pixels are normalised with is {value!r}; {channels} finite numbers "
                f"{'above 0 ' if name == 'std' else ''}were expected: put in those of the training."
            )
        values[name] = [float(x) for x in numbers]
    if len({len(numbers) for numbers in values.values()}) > 1:
        values = {name: numbers * (3 // len(numbers)) for name, numbers in values.items()}
    return for_channels(values, channels)
