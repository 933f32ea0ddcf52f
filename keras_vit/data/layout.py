"""What a tree of pictures means: which are for training and testing, and the class of each."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from keras_vit.data.decoding import SUFFIXES
from keras_vit.data.sources import EXPECTED, Tree, count_suffixes
from keras_vit.errors import InputError
from keras_vit.labels import check_class_names

# Folder names that mean a split, in any case. Where a set has "val" alone, that is its "test".
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
# Of each, a set has one.
SYNONYMS = (("train", "training"), ("test", "testing"), ("val", "valid", "validation"))
PARTS = ("train", "test", "val")  # of a set, in this order; few have all


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    split: str
    label: int
    mark: str = ""  # what the fingerprint says about it


def layout(tree: Tree, test_fraction: float, seed: int) -> tuple[list[str], list[Item]]:
    """(class names, [Item]), in the order of `PARTS`."""
    top = ""
    while True:
        below = [f"{top}/{name}".lstrip("/") for name in tree.folders[top]]
        splits = _split_folders(tree, top)
        if splits or len(below) != 1 or not tree.folders[below[0]]:
            break
        top = below[0]

    if not splits:
        by_split = {"": _classes(tree, top)}
    elif "train" not in splits:
        raise InputError(
            f"{tree.source!r} has a folder {splits['test']!r} but no 'train': add one with the same "
            f"class folders, or give the class folders without {splits['test']!r} above them."
        )
    else:
        by_split = {split: _classes(tree, f"{top}/{name}".lstrip("/")) for split, name in splits.items()}

    class_names = list(next(iter(by_split.values())))
    check_class_names(class_names, tree.source)
    others = [split for split in by_split if set(by_split[split]) != set(class_names)]
    if others:
        only = [
            f"only {splits[a]!r} has {listed(sorted(set(by_split[a]) - set(by_split[b]), key=natural))}"
            for a, b in (("train", others[0]), (others[0], "train"))
            if set(by_split[a]) - set(by_split[b])
        ]
        raise InputError(
            f"the splits of {tree.source!r} have different classes: {'; '.join(only)}. "
            "Both need the same class folders."
        )
    if len(class_names) < 2:
        raise InputError(
            f"{tree.source!r} has only one class, {class_names[0]!r}: a classifier needs two or more."
        )

    items = []
    for split, groups in by_split.items():
        for label, name in enumerate(class_names):
            files = groups[name]
            if "test" not in by_split and len(files) < 2:
                raise InputError(
                    f"class {name!r} of {tree.source!r} has a single picture: it needs one to train "
                    "and one to test. Add pictures or delete the class."
                )
            testing = set() if "test" in by_split else choose(len(files), test_fraction, seed, label)
            for i, (file, inner) in enumerate(files):
                part = "test" if i in testing else split or "train"
                mark = " ".join([f"{part}/{name}/{inner}", *map(str, tree.files[file])])
                items.append(Item(file, part, label, mark))
    return class_names, sorted(items, key=lambda item: PARTS.index(item.split))


def _split_folders(tree, top):
    """{"train": folder name, "test": folder name, "val": folder name}, those that are there."""
    folders = tree.folders[top]
    known = {name for split in SPLITS.values() for name in split}
    # "train" can be a class (next to "car" and "plane"). It is a split if it has class folders,
    # or if nothing else is there.
    there = [name for name in folders if name.lower() in known]
    if len(there) < len(folders):
        there = [name for name in there if tree.folders[f"{top}/{name}".lstrip("/")]]
    names_of_split = {}
    for split, order in SPLITS.items():
        names = sorted(
            (name for name in there if name.lower() in order), key=lambda n: order.index(n.lower())
        )
        for synonyms in SYNONYMS:
            same = [name for name in names if name.lower() in synonyms]
            if len(same) > 1:
                raise InputError(
                    f"{tree.source!r} has {listed(same)}, which mean the same: put the pictures of each "
                    "class into one of them, or rename the other."
                )
        if names:
            names_of_split[split] = names[0]
        if len(names) > 1:
            names_of_split["val"] = names[1]
    return names_of_split


def _classes(tree, folder):
    """{class: [(name, name below the class)]} in natural order, from the subfolders of `folder`."""
    where = f"{tree.source}/{folder}".rstrip("/")
    if not tree.folders[folder]:
        if any(name.rpartition("/")[0] == folder for name in tree.files):
            raise InputError(
                f"{where!r} has pictures but no class folders: put the pictures of each class into a "
                "subfolder that has the name of the class."
            )
        _check_no_link(tree, [folder])
        raise InputError(f"{where!r} has no class folders: {EXPECTED}.")
    groups = {name: [] for name in sorted(tree.folders[folder], key=natural)}
    prefix = f"{folder}/" if folder else ""
    for file in tree.files:
        if file.startswith(prefix):
            name, _, inner = file[len(prefix) :].partition("/")
            if inner:
                groups[name].append((file, inner))
    empty = [name for name, files in groups.items() if not files]
    _check_no_link(tree, [prefix + name for name in empty])
    if empty and len(groups) > 1:
        raise InputError(
            f"no pictures ({_suffixes(tree, prefix, empty)}) in {listed(empty)} of {where!r}: every folder "
            "there is a class. Add pictures or delete the folder."
        )
    return {name: sorted(files, key=lambda file: natural(file[1])) for name, files in groups.items()}


def _check_no_link(tree, folders):
    """Say of folders without pictures that these were found under another name."""
    for name in folders:
        if name in tree.links:
            to = tree.links[name] or "."
            raise InputError(
                f"{name!r} of {tree.source!r} is a link to {to!r}, which is read under its own name "
                "or lies above: each folder is read once. Delete the link."
            )


def _suffixes(tree, prefix, folders):
    """The suffixes of images, and those of the other files in the folders."""
    inside = tuple(f"{prefix}{name}/" for name in folders)
    others = count_suffixes(name for name in tree.others if name.startswith(inside))
    present = ", ".join(suffix or "files without a suffix" for suffix in list(others)[:5])
    return " ".join(SUFFIXES) + (f"; found: {present}" if present else "")


def choose(count: int, fraction: float, seed: int, label: int) -> set[int]:
    """The indices that are for testing: 1 to count - 1 of them."""
    testing = min(max(1, round(count * fraction)), count - 1)
    return set(np.random.default_rng([seed, label]).permutation(count)[:testing].tolist())


def natural(name: str) -> tuple[list, str]:
    """A sort key under which "2" < "10"."""
    parts = re.split(r"(\d+)", name)
    # Python makes no integer of more than 4300 digits.
    return [int(part[:4000]) if i % 2 else part for i, part in enumerate(parts)], name


def listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def digest(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts run together alike
        digest.update(part)
    return digest.hexdigest()[:16]


def fingerprint_of(class_names: Sequence[str], items: Iterable[Item]) -> str:
    return digest([*class_names, *sorted(item.mark for item in items)])
