"""Packed sets of images: what `packing.pack` makes, opened as an `ImageIndex`.

A packed set is a folder with train-00000-of-00016.tfrecord, ..., test-00000-of-00016.tfrecord, ..., those of
"val" where the source has it, and dataset.json. The records are tf.train.Examples: `image` (the bytes of a
JPEG, PNG, ...), `label`, `name`, and `place`, the image's place in the split it came from.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # that of Python 3.11 does not tell pydantic enough

from keras_vit.data.index import ImageIndex
from keras_vit.data.layout import PARTS, Item
from keras_vit.data.records import DamagedRecord, from_example, read_records
from keras_vit.errors import InputError
from keras_vit.files import open_regular
from keras_vit.formats import Labels, Side, read_document
from keras_vit.labels import check_class_names

CONTENTS = "dataset.json"
SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG"}  # file type -> its first bytes
FEATURES = {"image": bytes, "label": int, "name": bytes, "place": int}

Counts = list[Annotated[int, Field(ge=0, le=2**26)]]


class Shards(TypedDict):
    """The number of images in each shard."""

    train: Counts
    test: Counts
    val: NotRequired[Counts]


class Contents(TypedDict):
    """dataset.json."""

    format: Literal[1]
    labels: Labels
    fingerprint: str
    suggested_image_size: Side
    shards: Shards


@dataclasses.dataclass(frozen=True)
class Record:
    """Where one picture of a packed set is: a shard, and the bytes of its tf.train.Example there."""

    item: Item
    place: int
    file_type: str  # "JPEG", "PNG" or ""
    path: Path
    offset: int
    length: int


def shard_name(split: str, index: int, count: int) -> str:
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def is_packed(source: Any) -> bool:
    """Whether `source` is a folder that `pack` made."""
    try:
        folder = Path(source).expanduser()
        return (folder / CONTENTS).is_file() and any(folder.glob("*-of-*.tfrecord"))
    except (OSError, ValueError, TypeError):  # no path, or one that the file system refuses
        return False


def read_contents(source: str | Path) -> Contents:
    """What dataset.json of a packed set holds. Raises InputError."""
    path = Path(source).expanduser() / CONTENTS
    contents = read_document(path, Contents, "pack the set again")
    check_class_names(contents["labels"], source)
    return contents


def open_packed(source: str | Path, skip_bad: bool = False) -> ImageIndex:
    """The `ImageIndex` of a packed set, in the order they had in what was packed.

    All shards are read once, for their checksums, labels and names; each picture again when it is decoded.

    Raises:
        InputError: a damaged shard (unless `skip_bad`), or one that does not belong to dataset.json.
    """
    folder, contents = Path(source).expanduser(), read_contents(source)
    shard_counts: dict[str, Any] = dict(contents["shards"])
    shards = [
        (folder / shard_name(split, k, len(counts)), split, count)
        for split, counts in ((part, shard_counts.get(part, [])) for part in PARTS)
        for k, count in enumerate(counts)
    ]
    records: list[Record] = []
    lost: list[str] = []
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
    return ImageIndex(
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
                item, place, file_type = _item(path, record, data, split, num_classes)
                records.append(Record(item, place, file_type, path, offset, len(data)))
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
    missing = [name for name, cls in FEATURES.items() if not isinstance(values.get(name), cls)]
    if missing:
        raise InputError(f"{where} has no {' and no '.join(missing)}: it was not made by keras-vit pack.")
    if not 0 <= values["label"] < num_classes:
        raise InputError(
            f"{where} has the label {values['label']}, and {CONTENTS} names {num_classes} classes, 0 to "
            f"{num_classes - 1}: pack the set again."
        )
    types = [name for name, start in SIGNATURES.items() if values["image"].startswith(start)]
    return Item(os.fsdecode(values["name"]), split, values["label"]), values["place"], "".join(types)


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
