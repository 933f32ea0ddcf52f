"""What a tree of pictures means: which are for training and testing, and the class of each."""

import dataclasses
import hashlib
import re

import numpy as np

from keras_vit.errors import InputError
from keras_vit.training.images import SUFFIXES
from keras_vit.training.sources import EXPECTED

# Folder names that mean a split, in any case. Where a set has both, "test" is preferred to "val".
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    split: str
    label: int
    mark: str = ""  # what the fingerprint says about it


def layout(tree, test_fraction, seed):
    """(class names, [Item]), all of "train" first, then all of "test"."""
    top = ""
    while True:
        below = [f"{top}/{name}".lstrip("/") for name in tree.folders[top]]
        splits = _split_folders(tree, top)
        if splits or len(below) != 1 or not tree.folders[below[0]]:
            break
        top = below[0]

    if not splits:
        found = {"": _classes(tree, top)}
    elif "train" not in splits:
        raise InputError(
            f"{tree.source!r} has a folder {splits['test']!r} but no 'train': add one with the same "
            f"class folders, or give the class folders without {splits['test']!r} above them."
        )
    else:
        found = {split: _classes(tree, f"{top}/{name}".lstrip("/")) for split, name in splits.items()}

    classes = list(next(iter(found.values())))
    if "test" in found and set(found["test"]) != set(classes):
        only = [
            f"only {splits[a]!r} has {listed(sorted(set(found[a]) - set(found[b]), key=natural))}"
            for a, b in (("train", "test"), ("test", "train"))
            if set(found[a]) - set(found[b])
        ]
        raise InputError(
            f"the splits of {tree.source!r} have different classes: {'; '.join(only)}. "
            "Both need the same class folders."
        )
    if len(classes) < 2:
        raise InputError(
            f"{tree.source!r} has only one class, {classes[0]!r}: a classifier needs two or more."
        )

    items = []
    for split, groups in found.items():
        for label, name in enumerate(classes):
            files = groups[name]
            if "test" not in found and len(files) < 2:
                raise InputError(
                    f"class {name!r} of {tree.source!r} has a single picture: it needs one to train "
                    "and one to test. Add pictures or delete the class."
                )
            testing = set() if "test" in found else choose(len(files), test_fraction, seed, label)
            for i, (file, inner) in enumerate(files):
                part = "test" if i in testing else split or "train"
                mark = " ".join([f"{part}/{name}/{inner}", *map(str, tree.files[file])])
                items.append(Item(file, part, label, mark))
    return classes, sorted(items, key=lambda item: item.split != "train")


def _split_folders(tree, top):
    """{"train": folder name, "test": folder name}, those that are there."""
    folders = tree.folders[top]
    names = {name.lower(): name for name in folders}
    known = {name for split in SPLITS.values() for name in split}
    # "train" can be a class (next to "car" and "plane"). It is a split if it has class folders,
    # or if nothing else is there.
    if not set(names) <= known:
        names = {k: v for k, v in names.items() if k in known and tree.folders[f"{top}/{v}".lstrip("/")]}
    found = {split: [names[name] for name in order if name in names] for split, order in SPLITS.items()}
    return {split: there[0] for split, there in found.items() if there}


def _classes(tree, folder):
    """{class: [(name, name below the class)]} in natural order, from the subfolders of `folder`."""
    where = f"{tree.source}/{folder}".rstrip("/")
    if not tree.folders[folder]:
        if any(name.rpartition("/")[0] == folder for name in tree.files):
            raise InputError(
                f"{where!r} has pictures but no class folders: put the pictures of each class into a "
                "subfolder that has the name of the class."
            )
        raise InputError(f"{where!r} has no class folders: {EXPECTED}.")
    groups = {name: [] for name in sorted(tree.folders[folder], key=natural)}
    prefix = f"{folder}/" if folder else ""
    for file in tree.files:
        if file.startswith(prefix):
            name, _, inner = file[len(prefix) :].partition("/")
            if inner:
                groups[name].append((file, inner))
    empty = [name for name, files in groups.items() if not files]
    if empty and len(groups) > 1:
        raise InputError(
            f"no pictures ({' '.join(SUFFIXES)}) in {listed(empty)} of {where!r}: every folder there is a "
            "class. Add pictures or delete the folder."
        )
    return {name: sorted(files, key=lambda file: natural(file[1])) for name, files in groups.items()}


def choose(count, fraction, seed, label):
    """The indices that are for testing: 1 to count - 1 of them."""
    testing = min(max(1, round(count * fraction)), count - 1)
    return set(np.random.default_rng([seed, label]).permutation(count)[:testing].tolist())


def natural(name):
    """A sort key under which "2" < "10"."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def listed(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts run together alike
        digest.update(part)
    return digest.hexdigest()[:16]


def fingerprint_of(classes, items):
    return digest([*classes, *sorted(item.mark for item in items)])
