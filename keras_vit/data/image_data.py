"""A labelled set of pictures from wherever pictures lie, as two uint8 arrays.

    data = load_data("flowers.zip", image_size=224)
    data.train.images, data.train.labels, data.labels

TensorFlow is never imported; Keras only to download CIFAR-10.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_vit.config import integer, pair
from keras_vit.data.decoding import to_channels
from keras_vit.data.layout import PARTS
from keras_vit.data.opening import open_index, suggest_image_size
from keras_vit.data.service import ServedSplit, check_service
from keras_vit.errors import InputError

__all__ = ["ImageData", "Split", "load_data", "suggest_image_size"]

IN_MEMORY = 2 * 2**30  # bytes; a larger set goes to a temporary file
CHUNK = 16  # pictures that a thread takes at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures for one purpose.

    From files they are in the order class by class: shuffle them to train.

    Attributes:
        images: uint8 [N, H, W, C]; an `np.memmap` when the set is large.
        labels: int32 [N], indices into `ImageData.labels`.
        names: N names, relative to the source.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list

    def __len__(self):
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled set of pictures.

    Attributes:
        train, test: two `Split`s.
        labels: the class names.
        source: what it was loaded from.
        fingerprint: 16 hex digits. Equal ones mean the same files (or built-in pictures) in the
            same splits, whatever the image size and whether or not bad pictures were left out.
            A folder and a .zip of it differ, as a .zip tells more about its files. A packed set has
            that of what was packed, but for one whose pictures were resized.
        skipped: names of the bad pictures that were left out; of lost records, which ones.
        ignored: {suffix: number} of the files of a folder or .zip that were passed over, since they have no
            suffix of a picture that can be read, or lie outside the class folders; "" of those that have
            no suffix. Hidden files do not count.
        val: a third `Split`, by which training chooses between epochs; None where the source has none.
    """

    train: Split
    test: Split
    labels: list
    source: str
    fingerprint: str
    skipped: list
    ignored: dict = dataclasses.field(default_factory=dict)
    val: Split | None = None

    @property
    def choosing(self) -> Split:
        """The pictures that choices are made by: `val`, or `test` where there is none."""
        return self.test if self.val is None else self.val


def load_data(
    source: str | Path,
    image_size: int | tuple[int, int] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Callable[[int, int], object] | None = None,
    service: str | None = None,
    channels: int = 3,
) -> ImageData:
    """Load a labelled set of pictures.

    A folder (or .zip) has one subfolder per class, with pictures at any depth in it, or has
    those below `train` and `test` (or `val`, `valid`, `validation`). Leading single folders are
    passed through. With `test` and `val` both there, training chooses by `val`, and `test` is for the
    report alone. Any other folder next to `train` is left out. Without a second split, each class is divided
    by `seed`.
    Classes are sorted by name, numbers by value ("2" before "10"). Pictures that lie outside the
    class folders, hidden files and files with other suffixes are passed over (see `ImageData.ignored`).
    Of two folders for the same split, such as `Train` and `train`, none is left out: they are refused.
    Links are followed, but each folder is read once, under its own name; a file that is linked twice
    counts twice, as a copy does. Class names must be lines of text that look different.

    Args:
        source: a folder, a .zip, a folder made by `pack`, "digits" (scikit-learn's 1,797 of 8 x 8),
            "cifar10" (a download) or "tfds:NAME" (a data set of tensorflow-datasets with `image` and
            `label`; a download). For a folder of such a name write "./digits".
        image_size: an integer or (height, width), see `decoding.fit`; None asks `suggest_image_size`.
        test_fraction: the part of each class that is for testing where the source has no split:
            rounded, but at least one picture, and at least one is left for training. A packed set has one.
        seed: chooses which ones.
        skip_bad: leave out pictures that cannot be read instead of refusing the set. Of a packed shard
            that is damaged, all from the damage on.
        progress: called as `progress(done, total)` while pictures are read.
        service: "HOST:PORT" of a data service (see `data.service`) that shall read the training pictures
            of a packed set. `train` is a `ServedSplit` then, which only training takes.
        channels: 3, or 1 for grey pictures, see `decoding.to_channels`. Pictures of other sensors come from
            no file: make an `ImageData` of arrays.

    Raises:
        InputError: no such source, no usable layout, a class without pictures, bad pictures or shards; a
            service that does not answer, or a set that it cannot read.
    """
    if (
        isinstance(test_fraction, bool)
        or not isinstance(test_fraction, int | float)
        or not 0 < test_fraction < 1
    ):
        raise InputError(f"test_fraction must be between 0 and 1, e.g. 0.2, not {test_fraction!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer from 0 on, not {seed!r}.")
    if image_size is not None:
        image_size = pair(image_size, "image_size")
    to_channels(np.zeros((1, 1, 3), "uint8"), integer("channels", channels, 1))

    if service is not None:
        service = check_service(service)
    with open_index(source, test_fraction, seed, skip_bad) as index:
        size = image_size or pair(index.suggested_size(), "")
        if service is not None:
            return _served(index, size, service, progress, channels)
        items = index.items
        images, problems = _fill(index.picture, len(items), size, progress, channels)
    skipped = index.lost + [items[i].name for i in sorted(problems)]
    if problems:
        if not skip_bad:
            raise InputError(index.complaint(problems))
        images, items = _without(images, items, problems)
        index.check_none_emptied(items)
    return _data(images, index, items, skipped)


def _fill(picture, count, image_size, progress, channels):
    """(uint8 [count, H, W, channels], {index: why not}) from `picture(i, image_size)`, in threads.

    Pillow lets go of Python's lock while it decodes and resizes.
    """
    images = _allocate((count, *image_size, channels))
    problems = {}

    def work(start):
        stop = min(start + CHUNK, count)
        for i in range(start, stop):
            try:
                images[i] = to_channels(picture(i, image_size), channels)
            except InputError as error:
                problems[i] = str(error)
        return stop

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done in pool.map(work, range(0, count, CHUNK)):
            if progress:
                progress(done, count)
    finally:  # on an interrupt too, without doing the rest first
        pool.shutdown(cancel_futures=True)
    return images, problems


def _served(index, image_size, service, progress, channels):
    """The data set, with training pictures that stay where they are."""
    records = [record for record in index.records or () if record.item.split == "train"]
    if not records:
        raise InputError(
            f"a data service reads packed sets alone: make one by keras-vit pack {index.source} --out PACKED."
        )
    others = [record.item.name for record in records if not record.file_type]
    if others:
        raise InputError(
            f"a data service reads JPEG and PNG alone, and {others[0]!r} ({len(others)} in all) is neither: "
            "pack the set again with --image-size, which stores PNG."
        )
    n = len(records)
    test, problems = _fill(
        lambda i, size: index.picture(n + i, size),
        len(index.items) - n,
        image_size,
        progress,
        channels,
    )
    if problems:  # the file has changed meanwhile: `pack` let no bad picture in
        raise InputError(index.complaint({n + i: why for i, why in problems.items()}))
    data = _data(test, index, index.items[n:], index.lost)
    return dataclasses.replace(data, train=ServedSplit(service, image_size, records, channels))


def _allocate(shape):
    size = int(np.prod(shape, dtype=np.int64))
    if size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:  # the file is sparse: running out later would kill the process
        raise InputError(
            f"{shape[0]} pictures of {shape[1]}x{shape[2]} take {size / 2**30:.1f} GiB and {folder!r} has "
            f"{free / 2**30:.1f} GiB free: use a smaller image size, or set TMPDIR to a larger disk."
        )
    # The file has no name (or goes when closed): nothing stays behind, however the process ends.
    with tempfile.TemporaryFile(prefix="keras_vit_") as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _without(images, items, problems):
    """Without the bad ones, moved up in place: a second array might not fit."""
    keep = [i for i in range(len(items)) if i not in problems]
    for to, i in enumerate(keep):
        if to != i:
            images[to] = images[i]
    return images[: len(keep)], [items[i] for i in keep]


def _data(images, index, items, skipped):
    labels = np.array([item.label for item in items], np.int32)
    names = [item.name for item in items]
    splits, start = {}, 0
    for part in PARTS:
        stop = start + sum(item.split == part for item in items)
        splits[part] = Split(images[start:stop], labels[start:stop], names[start:stop])
        start = stop
    return ImageData(
        train=splits["train"],
        test=splits["test"],
        val=splits["val"] if len(splits["val"]) else None,
        labels=list(index.labels),
        source=str(index.source),
        fingerprint=index.fingerprint,
        skipped=skipped,
        ignored=index.ignored,
    )
