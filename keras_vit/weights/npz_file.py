"""NumPy's .npz: a zip of .npy arrays, each of which could hide a pickle or claim any size.

`np.load` reads them. Before, each header is read by NumPy's own functions and compared with the size of the
array, as `np.load` takes memory for whatever a header claims.
"""

import math
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.weights.checkpoint import StoredTensor
from keras_vit.weights.safe_reading import CONVERT, as_float32, readable, refuse_pickle

# Random weights do not compress, fresh heads of zeros do: a file may unpack to this, or to so much.
MAX_RATIO, ALWAYS_FINE = 20, 64 * 2**20
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npz(path: str | Path) -> dict[str, StoredTensor]:
    """The arrays of a .npz file.

    Raises:
        InputError: it is damaged, holds anything but arrays of numbers, or claims more than it has.
    """
    path = Path(path)
    refuse_pickle(path)
    with readable(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(ALWAYS_FINE, MAX_RATIO * path.stat().st_size):
            raise InputError(
                f"{path} would unpack from {path.stat().st_size:,} to {unpacked:,} bytes: no checkpoint does."
            )
        stored = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in stored:
                pickled = member.filename.endswith(".pkl")
                reason = (
                    f"holds a pickle: {CONVERT}"
                    if pickled
                    else f"holds {member.filename!r}, no array of its own"
                )
                raise InputError(f"{path} is no .npz of weights: it {reason}.")
            stored[name] = StoredTensor(_checked_shape(path, archive, member), partial(_read, path, name))
        return stored


def _checked_shape(path, archive, member):
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise InputError(
                f"{path}: {member.filename} is of .npy version {version}; 1.0 and 2.0 can be read."
            )
        shape, _, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise InputError(f"{path}: {member.filename} holds Python objects: {CONVERT}.")
        size = math.prod(shape) * dtype.itemsize
        if any(n < 0 for n in shape) or file.tell() + size != member.file_size:
            raise InputError(
                f"{path}: {member.filename} claims shape {str(list(shape))[:80]} of {dtype}, which is "
                f"not the {member.file_size:,} bytes that it has."
            )
    return shape


def _read(path, name):
    with readable(path), np.load(path, allow_pickle=False) as archive:
        return as_float32(path, name, archive[name])
