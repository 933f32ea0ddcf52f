"""`pack`: any set of pictures into a few large files that are read in one go; and opening what it made.

    pack("flowers.zip", "flowers.packed", shards=16)
    load_data("flowers.packed")  # as from flowers.zip: the same pictures in the same order

A packed set is a folder with train-00000-of-00016.tfrecord, ..., test-00000-of-00016.tfrecord, ..., those of
"val" where the source has it, and dataset.json. The records are tf.train.Examples: `image` (the bytes of a
JPEG, PNG, ...), `label`, `name`, and `place`, the picture's place in the split it came from.
"""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from keras_vit.config import integer, pair
from keras_vit.data.index import Pictures, open_pictures
from keras_vit.data.layout import PARTS, Item, digest
from keras_vit.data.records import DamagedRecord, from_example, read_records, to_example, write_record
from keras_vit.errors import InputError
from keras_vit.files import atomic_directory, open_regular, write_json
from keras_vit.formats import Packed, read_document
from keras_vit.labels import check_classes

CONTENTS = "dataset.json"
FORMAT = 1
STARTS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG"}  # the first bytes of these kinds of files
FEATURES = {"image": bytes, "label": int, "name": bytes, "place": int}


@dataclasses.dataclass(frozen=True)
class Record:
    """Where one picture of a packed set is: a shard, and the bytes of its tf.train.Example there."""

    item: Item
    place: int
    kind: str  # "JPEG", "PNG" or ""
    path: Path
    offset: int
    length: int


def pack(source, out, shards=16, image_size=None, seed=0, skip_bad=False, progress=None):
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
    with open_pictures(source, seed=seed, skip_bad=skip_bad) as pictures, atomic_directory(out) as folder:
        parts = _dealt(pictures.items, shards, np.random.default_rng(seed))
        counts, problems = _write(pictures, parts, folder, size, progress)
        if problems and not skip_bad:
            raise InputError(pictures.complaint(problems))
        pictures.check_none_emptied([item for i, item in enumerate(pictures.items) if i not in problems])
        contents = {
            "format": FORMAT,
            "labels": list(pictures.labels),
            "image_size": size and list(size),
            "suggested_image_size": min(size) if size else pictures.suggested_size(),
            # Resized pictures are others: a run on those they were made from must not go on with these.
            "fingerprint": digest([pictures.fingerprint, str(size)]) if size else pictures.fingerprint,
            "seed": seed,
            "shards": counts,
        }
        write_json(folder / CONTENTS, contents)
    skipped = pictures.lost + [pictures.items[i].name for i in sorted(problems)]
    return {**contents, "skipped": skipped, "ignored": pictures.ignored}


def _dealt(items, shards, random):
    """[(file name, indices of its pictures)]."""
    parts = []
    for split in PARTS:
        members = random.permutation([i for i, item in enumerate(items) if item.split == split])
        count = min(shards, len(members))
        parts += [(shard_name(split, k, count), members[k::count].tolist()) for k in range(count)]
    return parts


def _write(pictures, parts, folder, size, progress):
    """Write the shards, several at a time. Returns ({split: [pictures in each shard]}, {index: why not})."""
    first = {}
    for i, item in enumerate(pictures.items):
        first.setdefault(item.split, i)
    problems, done, lock = {}, 0, threading.Lock()

    def write(part):
        nonlocal done
        name, members = part
        with open(folder / name, "wb") as file:
            for i in members:
                item = pictures.items[i]
                try:
                    image = _encoded(pictures, i, size)
                except InputError as error:
                    problems[i] = str(error)
                else:
                    values = {"image": image, "label": item.label, "name": os.fsencode(item.name)}
                    write_record(file, to_example({**values, "place": i - first[item.split]}))
                with lock:
                    done += 1
                    if progress and (done % 64 == 0 or done == len(pictures.items)):
                        progress(done, len(pictures.items))
        return sum(i not in problems for i in members)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        counts = list(pool.map(write, parts))
    finally:  # on an interrupt too, without doing the rest first
        pool.shutdown(cancel_futures=True)
    split_of = [name.partition("-")[0] for name, _ in parts]
    there = [part for part in PARTS if part in split_of]
    return {s: [n for n, of in zip(counts, split_of, strict=True) if of == s] for s in there}, problems


def _encoded(pictures, i, size):
    raw = pictures.read(i)
    pixels = pictures.decoded(raw, i, size)
    if isinstance(raw, bytes) and size is None:
        return raw
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shard_name(split, index, count):
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def is_packed(source):
    """Whether `source` is a folder that `pack` made."""
    try:
        folder = Path(source).expanduser()
        return (folder / CONTENTS).is_file() and any(folder.glob("*-of-*.tfrecord"))
    except (OSError, ValueError, TypeError):  # no path, or one that the file system refuses
        return False


def read_contents(source):
    """What dataset.json of a packed set holds. Raises InputError."""
    path = Path(source).expanduser() / CONTENTS
    contents = read_document(path, Packed, "pack the set again")
    check_classes(contents["labels"], source)
    return contents


def open_packed(source, skip_bad=False):
    """The `Pictures` of a packed set, in the order they had in what was packed.

    All shards are read once, for their checksums, labels and names; each picture again when it is decoded.

    Raises:
        InputError: a damaged shard (unless `skip_bad`), or one that does not belong to dataset.json.
    """
    folder, contents = Path(source).expanduser(), read_contents(source)
    shards = [
        (folder / shard_name(split, k, len(counts)), split, count)
        for split, counts in ((part, contents["shards"].get(part, ())) for part in PARTS)
        for k, count in enumerate(counts)
    ]
    records, lost = [], []
    for path, split, count in shards:
        damage = _index(path, split, count, len(contents["labels"]), records)
        if damage:
            record, why = damage
            if not skip_bad:
                raise InputError(
                    f"{str(path)!r} is damaged at record {record} of {count} ({why}): pack the set again; "
                    "--skip-bad (skip_bad=True) leaves out the rest of this shard, "
                    f"{count - record + 1} pictures."
                )
            lost += [f"{path.name}, record {i}" for i in range(record, count + 1)]
    records.sort(key=lambda record: (PARTS.index(record.item.split), record.place))
    _check(source, contents["labels"], records, lost)

    def read(i):
        with open_regular(records[i].path) as file:
            file.seek(records[i].offset)
            return from_example(file.read(records[i].length))["image"]

    size = contents["suggested_image_size"]
    return Pictures(
        str(folder),
        contents["labels"],
        [record.item for record in records],
        contents["fingerprint"],
        read,
        lambda: size,
        lost=lost,
        records=records,
    )


def _index(path, split, count, num_classes, records):
    """Add a `Record` for each picture to `records`; (number, why) of the one where it is damaged."""
    record = 0
    try:
        file = open_regular(path, path.name)
    except InputError as error:
        return 1, getattr(error.__cause__, "strerror", None) or str(error).rstrip(".")
    try:
        with file:
            for record, (offset, data) in enumerate(read_records(file), start=1):
                item, place, kind = _item(path, record, data, split, num_classes)
                records.append(Record(item, place, kind, path, offset, len(data)))
    except DamagedRecord as damage:
        return record + 1, str(damage)
    except OSError as error:
        return record + 1, error.strerror
    if record > count:
        raise InputError(
            f"{str(path)!r} has {record} records, and {CONTENTS} says {count}: pack the set again."
        )
    return (record + 1, "the file ends here") if record < count else None


def _item(path, record, data, split, num_classes):
    values = from_example(data)
    where = f"record {record} of {str(path)!r}"
    missing = [name for name, kind in FEATURES.items() if not isinstance(values.get(name), kind)]
    if missing:
        raise InputError(f"{where} has no {' and no '.join(missing)}: it was not made by keras-vit pack.")
    if not 0 <= values["label"] < num_classes:
        raise InputError(
            f"{where} has the label {values['label']}, and {CONTENTS} names {num_classes} classes, 0 to "
            f"{num_classes - 1}: pack the set again."
        )
    kinds = [kind for kind, start in STARTS.items() if values["image"].startswith(start)]
    return Item(os.fsdecode(values["name"]), split, values["label"]), values["place"], "".join(kinds)


def _check(source, labels, records, lost):
    places = [(record.item.split, record.place) for record in records]
    if len(set(places)) < len(places):
        raise InputError(f"two shards of {str(source)!r} hold the same pictures: pack the set again.")
    empty = set(range(len(labels))) - {r.item.label for r in records if r.item.split == "train"}
    if empty and lost:
        raise InputError(
            f"class {labels[min(empty)]!r} of {str(source)!r} has no train pictures left without its damaged "
            "records: pack the set again."
        )
