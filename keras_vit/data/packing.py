"""`pack`: any set of images into a few large files that are read in one go. `packed` says what is in them.

pack("flowers.zip", "flowers.packed", shards=16)
load_data("flowers.packed")  # as from flowers.zip: the same pictures in the same order
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_vit.config import integer, pair
from keras_vit.data.layout import PARTS, digest
from keras_vit.data.opening import open_index
from keras_vit.data.packed import CONTENTS, is_packed, shard_name
from keras_vit.data.records import to_example, write_record
from keras_vit.errors import InputError
from keras_vit.files import atomic_directory, write_json
from keras_vit.formats import FORMAT


def pack(
    source: str | Path,
    out: str | Path,
    shards: int = 16,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Write the pictures of `source` into the folder `out`, which appears whole or not at all.

    Each picture is decoded once, so that no bad one gets in. Without `image_size` the files go in as
    they are, and arrays as PNG. Each split is shuffled before it is dealt out to its shards, so that
    every shard has pictures of all classes.

    Args:
        source: what `load_data` takes.
        out: a new folder, or a packed set to replace.
        shards: files for each split; fewer where it has fewer pictures.
        image_size: an integer or (height, width) that all are brought to, and stored as PNG; None keeps
            the files.
        seed: of the order in the shards, and of the split where the source has none, as in `load_data`.
        skip_bad: leave out pictures that cannot be read instead of refusing the set.
        progress: called as `progress(done, total)`.

    Returns:
        what dataset.json holds; "skipped": names of the bad pictures that were left out; and "ignored": files
        that were passed over, as in `ImageData`.

    Raises:
        InputError: as `load_data`; `out` is something else.
    """
    out = Path(out)
    integer("shards", shards, 1)
    integer("seed", seed, 0)
    size = None if image_size is None else pair(image_size, "image_size")
    if out.exists() and not is_packed(out):
        raise InputError(f"{str(out)!r} is there and is no packed set: use another --out.")
    if isinstance(source, str | os.PathLike) and Path(source).resolve() in out.resolve().parents:
        raise InputError(
            f"{str(out)!r} lies in {str(source)!r}, where it would be a class: use another --out."
        )
    with open_index(source, seed=seed, skip_bad=skip_bad) as index, atomic_directory(out) as folder:
        parts = _dealt(index.items, shards, np.random.default_rng(seed))
        counts, problems = _write(index, parts, folder, size, progress)
        if problems and not skip_bad:
            raise InputError(index.complaint(problems))
        index.check_none_emptied([item for i, item in enumerate(index.items) if i not in problems])
        contents = {
            "format": FORMAT,
            "labels": list(index.labels),
            "image_size": size and list(size),
            "suggested_image_size": min(size) if size else index.suggested_size(),
            # Resized pictures are others: a run on those they were made from must not go on with these.
            "fingerprint": digest([index.fingerprint, str(size)]) if size else index.fingerprint,
            "seed": seed,
            "shards": counts,
        }
        write_json(folder / CONTENTS, contents)
    skipped = index.lost + [index.items[i].name for i in sorted(problems)]
    return {**contents, "skipped": skipped, "ignored": index.ignored}


def _dealt(items, shards, random):
    """[(file name, indices of its pictures)]."""
    parts = []
    for split in PARTS:
        members = random.permutation([i for i, item in enumerate(items) if item.split == split])
        count = min(shards, len(members))
        parts += [(shard_name(split, k, count), members[k::count].tolist()) for k in range(count)]
    return parts


def _write(index, parts, folder, size, progress):
    """Write the shards, several at a time. Returns ({split: [pictures in each shard]}, {index: why not})."""
    first = {}
    for i, item in enumerate(index.items):
        first.setdefault(item.split, i)
    problems, done, lock = {}, 0, threading.Lock()

    def write(part):
        nonlocal done
        name, members = part
        with open(folder / name, "wb") as file:
            for i in members:
                item = index.items[i]
                try:
                    image = _encoded(index, i, size)
                except InputError as error:
                    problems[i] = str(error)
                else:
                    values = {"image": image, "label": item.label, "name": os.fsencode(item.name)}
                    write_record(file, to_example({**values, "place": i - first[item.split]}))
                with lock:
                    done += 1
                    if progress and (done % 64 == 0 or done == len(index.items)):
                        progress(done, len(index.items))
        return sum(i not in problems for i in members)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        counts = list(pool.map(write, parts))
    finally:  # on an interrupt too, without doing the rest first
        pool.shutdown(cancel_futures=True)
    split_of = [name.partition("-")[0] for name, _ in parts]
    there = [part for part in PARTS if part in split_of]
    return {s: [n for n, of in zip(counts, split_of, strict=True) if of == s] for s in there}, problems


def _encoded(index, i, size):
    raw = index.read(i)
    pixels = index.decoded(raw, i, size)
    if isinstance(raw, bytes) and size is None:
        return raw
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
