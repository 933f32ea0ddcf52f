"""Files of the safetensors library (github.com/huggingface/safetensors), one or several shards of them.

The library compares every claim of the header with the file before anything is read.
"""

from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401, by which NumPy, and so the library, knows bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from keras_vit.errors import InputError
from keras_vit.weights.checkpoint import StoredTensor
from keras_vit.weights.safe_reading import read_json, readable, refuse_pickle

READABLE = ("BF16", "F16", "F32", "F64")


def open_safetensors(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a file, or of all shards if `path` is a model.safetensors.index.json.

    Raises:
        InputError: the header does not describe exactly this file.
    """
    path = Path(path)
    return _open_shards(path) if path.suffix == ".json" else _open_one(path)


def _open_one(path):
    refuse_pickle(path)
    with readable(path):
        try:
            file = safe_open(path, framework="numpy")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        except SafetensorError as error:
            raise InputError(
                f"{path} is no safetensors file, or it is damaged or truncated ({error})."
            ) from error
        return {
            name: StoredTensor(tuple(entry.get_shape()), partial(_read, path, file, name))
            for name, entry in slices.items()
        }


def _read(path, file, name):
    dtype = file.get_slice(name).get_dtype()
    if dtype not in READABLE:
        raise InputError(f"{path}: {name} is of type {dtype}; {', '.join(READABLE)} can be read.")
    with readable(path):
        return np.asarray(file.get_tensor(name), "float32")


def _open_shards(path):
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{path}: weight_map must map the names of tensors to files.")
    stored = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise InputError(f"{path}: {shard!r} is no name of a .safetensors file in the same folder.")
        stored |= _open_one(path.parent / shard)
    absent = [name for name in shards if name not in stored]
    if absent:
        raise InputError(f"{path} names {len(absent)} tensors that no shard has: {', '.join(absent[:5])}.")
    return stored
