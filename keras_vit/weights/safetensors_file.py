"""The safetensors format (github.com/huggingface/safetensors): 8 bytes n, n bytes of JSON, then the numbers.

Read here and not by the safetensors library, which knows no bfloat16 in NumPy, so that every claim of the
header is compared with the file before memory is taken for it.
"""

import json
import math
import struct
from functools import partial
from pathlib import Path

import numpy as np

from keras_vit.errors import InputError
from keras_vit.weights.checkpoint import Stored
from keras_vit.weights.safe_reading import bfloat16_to_float32, read_json, readable, refuse_pickle

MAX_HEADER = 100 * 10**6  # bytes, as in the library
MAX_RANK = 8
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
READABLE = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def open_safetensors(path):
    """{name: Stored} of a file, or of all shards if `path` is a model.safetensors.index.json.

    Raises:
        InputError: the header does not describe exactly this file.
    """
    path = Path(path)
    return _open_shards(path) if path.suffix == ".json" else _open_one(path)


def _open_one(path):
    refuse_pickle(path)
    with readable(path), open(path, "rb") as file:
        size = path.stat().st_size
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if length > min(MAX_HEADER, size - 8):
            raise InputError(
                f"{path} is no safetensors file: its header claims {length:,} of {size:,} bytes."
            )
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_repeats)
        if not isinstance(header, dict):
            raise InputError(f"{path} is no safetensors file: its header is no JSON object.")
        header.pop("__metadata__", None)
        return _checked(path, header, start=8 + length, size=size - 8 - length)


def _without_repeats(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise InputError("the header of a safetensors file names a tensor twice.")
    return dict(pairs)


def _checked(path, header, start, size):
    """The header's tensors, which must fill the `size` bytes from `start` without gap or overlap."""
    stored, ranges = {}, []
    for name, entry in header.items():
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in BYTES:
            raise InputError(f"{path}: {name!r} is of type {dtype}; {', '.join(READABLE)} can be read.")
        integers = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if len(shape) > MAX_RANK or not integers or end - begin != math.prod(shape) * BYTES[dtype]:
            raise InputError(
                f"{path}: the header of {name!r} contradicts itself: {dtype} of shape {str(shape)[:80]} in "
                f"{str(end - begin)[:20] if integers else 'impossible'} bytes."
            )
        ranges.append((begin, end, name))
        stored[name] = Stored(tuple(shape), partial(_read, path, name, dtype, tuple(shape), start + begin))
    position = 0
    for begin, end, name in sorted(ranges):
        if begin != position:
            raise InputError(f"{path}: {name!r} lies at byte {begin}, where {position} was expected.")
        position = end
    if position != size:
        raise InputError(
            f"{path}: its tensors fill {position:,} bytes, but the file has {size:,}: it is truncated."
        )
    return stored


def _read(path, name, dtype, shape, offset):
    if dtype not in READABLE:
        raise InputError(f"{path}: {name} is of type {dtype}; {', '.join(READABLE)} can be read.")
    with readable(path):
        numbers = np.fromfile(path, READABLE[dtype], count=math.prod(shape), offset=offset).reshape(shape)
    return bfloat16_to_float32(numbers) if dtype == "BF16" else numbers.astype("float32")


def _open_shards(path):
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{path}: weight_map must map the names of tensors to files.")
    stored = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise InputError(f"{path}: {shard!r} is no name of a .safetensors file in the same folder.")
        stored |= _open_one(path.parent / shard)
    absent = [name for name in places if name not in stored]
    if absent:
        raise InputError(f"{path} names {len(absent)} tensors that no shard has: {', '.join(absent[:5])}.")
    return stored
