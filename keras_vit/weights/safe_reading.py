"""Files that come from strangers: read so that the worst that can happen is an `InputError`."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_vit.config import pair
from keras_vit.errors import InputError
from keras_vit.files import open_regular
from keras_vit.formats import parsed

PICKLED = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".th")
CONVERT = (
    "reading a pickle can run any code, so this package never does. Where you trust its origin, convert it "
    "with PyTorch: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
MAX_JSON = 32 * 2**20  # bytes; the 21,843 labels of ImageNet-21k take two million


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn whatever a broken file makes the standard readers raise into an `InputError` that names it.

    A pipe or a device, for which they would wait, is one too.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        open_regular(path).close()
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except Exception as error:  # bytes of a stranger: NumPy alone can raise ten types
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is damaged or not what its name says ({reason}).") from error


def refuse_pickle(path: str | Path) -> None:
    """Raise `InputError` if a file is a pickle by its name or its first bytes. It is never run."""
    path = Path(path)
    with readable(path), open(path, "rb") as file:
        start = file.read(9)
    # The length that begins a safetensors file can look like a pickle's protocol, but its JSON follows.
    pickled = start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5") and start[8:] != b"{"
    if pickled or path.suffix.lower() in PICKLED:
        raise InputError(f"{path} is a pickle: {CONVERT}.")


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file."""
    path = Path(path)
    with readable(path):
        if path.stat().st_size > MAX_JSON:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes, too many for a description of a model."
            )
        value = parsed(path.read_bytes())
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def get_setting(
    path: Path, settings: Mapping[str, Any], name: str, expected: type, default: Any = None
) -> Any:
    """`settings[name]`, of the type `expected` (int, float, str, list, dict); `default` if absent or null."""
    value = settings.get(name)
    if value is None:
        return default
    types = (int, float) if expected is float else (expected,)
    if not isinstance(value, types) or isinstance(value, bool):
        raise InputError(f"{path}: {name} must be of type {expected.__name__}, not {value!r}.")
    return value


def get_size_setting(
    path: Path, settings: Mapping[str, Any], name: str, default: Any = None
) -> tuple[int, int] | None:
    """`settings[name]`, one integer or a list of two, as (height, width)."""
    value = settings.get(name)
    with readable(path):
        return pair(default if value is None else value, f"{path}: {name}") if value or default else None


def as_float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """float16, float32, float64, and bfloat16 as two raw bytes ("V2", as JAX saves it), to float32."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return bfloat16_to_float32(array.view("<u2"))
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InputError(f"{path}: {name} holds {array.dtype}, not floating point numbers of 16 to 64 bits.")
    return array.astype("float32")


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32: uint16 bits -> float32."""
    return (bits.astype("uint32") << 16).view("float32")
