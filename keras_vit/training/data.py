"""A labelled set of pictures from a folder, a .zip or a built-in name, as two uint8 arrays.

    data = load_data("flowers.zip", image_size=224)
    data.train.images, data.train.labels, data.labels

TensorFlow is never imported; Keras only to download CIFAR-10.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from keras_vit.config import pair
from keras_vit.errors import InputError
from keras_vit.training.images import FORMATS, decode, fit
from keras_vit.training.layout import Item, choose, digest, fingerprint_of, layout
from keras_vit.training.sources import BUILT_IN, MAX_FILE, open_tree

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IN_MEMORY = 2 * 2**30  # bytes; a larger set goes to a temporary file
CHUNK = 16  # pictures that a thread takes at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Pictures for one purpose.

    From files they are in the order class by class: shuffle them to train.

    Attributes:
        images: uint8 [N, H, W, 3]; an `np.memmap` when the set is large.
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
        train, test: the two `Split`s.
        labels: the class names.
        source: what it was loaded from.
        fingerprint: 16 hex digits. Equal ones mean the same files (or built-in pictures) in the
            same splits, whatever the image size and whether or not bad pictures were left out.
            A folder and a .zip of it differ, as a .zip tells more about its files.
        skipped: names of the bad pictures that were left out.
    """

    train: Split
    test: Split
    labels: list
    source: str
    fingerprint: str
    skipped: list


def load_data(source, image_size=None, test_fraction=0.2, seed=0, skip_bad=False, progress=None) -> ImageData:
    """Load a labelled set of pictures.

    A folder (or .zip) has one subfolder per class, with pictures at any depth in it, or has
    those below `train` and `test` (or `val`, `valid`, `validation`). Leading single folders are
    passed through. With `test` and `val` both there, `test` is used and `val` left out, and so
    is any other folder next to `train`. Without a second split, each class is divided by `seed`.
    Classes are sorted by name, numbers by value ("2" before "10"). Pictures that lie outside the
    class folders, hidden files and files with other suffixes are passed over.

    Args:
        source: a folder, a .zip, "digits" (scikit-learn's 1,797 of 8 x 8) or "cifar10" (a
            download). For a folder of such a name write "./digits".
        image_size: an integer or (height, width), see `images.fit`; None asks `suggest_image_size`.
        test_fraction: the part of each class that is for testing where the source has no split:
            rounded, but at least one picture, and at least one is left for training.
        seed: chooses which ones.
        skip_bad: leave out pictures that cannot be read instead of refusing the set.
        progress: called as `progress(done, total)` while pictures are read.

    Raises:
        InputError: no such source, no usable layout, a class without pictures, bad pictures.
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

    if _is_built_in(source):
        read = _digits if source == "digits" else _cifar10
        pixels, classes, items, fingerprint = read(test_fraction, seed)
        images, _ = _fill(
            lambda i, size: fit(pixels[i], size),
            len(items),
            image_size or pair(BUILT_IN[source], ""),
            progress,
        )
        return _data(images, classes, items, source, fingerprint, [])

    with open_tree(source) as tree:
        classes, items = layout(tree, test_fraction, seed)
        image_size = image_size or pair(_suggest(tree, items), "image_size")
        images, problems = _fill(
            lambda i, size: decode(tree.read(items[i].name), size, items[i].name),
            len(items),
            image_size,
            progress,
        )
    skipped = [items[i].name for i in sorted(problems)]
    if problems:
        if not skip_bad:
            raise InputError(_bad_pictures(tree.source, problems, len(items)))
        images, kept = _without(images, items, problems)
        _check_none_emptied(tree.source, classes, items, kept)
    else:
        kept = items
    return _data(images, classes, kept, tree.source, fingerprint_of(classes, items), skipped)


def suggest_image_size(source) -> int:
    """The image size that suits a source, from the headers of up to 64 of its pictures.

    By the median of their shorter sides: up to 16, that (to a multiple of 2); up to 64, the
    nearer one of 32 and 64; else 224.
    """
    if _is_built_in(source):
        return BUILT_IN[source]
    with open_tree(source) as tree:
        return _suggest(tree, layout(tree, test_fraction=0.5, seed=0)[1])


def _suggest(tree, items):
    sample = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, 64).astype(int))]
    sides = []
    for item in sample:
        if tree.files[item.name][0] > MAX_FILE:
            continue
        # An unreadable picture has no say; reading them all names it.
        with contextlib.suppress(Exception), tree.open(item.name) as file:
            sides.append(min(Image.open(file, formats=FORMATS).size))
    side = float(np.median(sides)) if sides else np.inf
    if side <= 16:
        return max(2, 2 * int(side / 2 + 0.5))
    if side <= 64:
        return 32 if side < 48 else 64
    return 224


def _is_built_in(source):
    return isinstance(source, str) and source in BUILT_IN


def _fill(picture, count, image_size, progress):
    """(uint8 [count, H, W, 3], {index: why not}) from `picture(i, image_size)`, in threads.

    Pillow lets go of Python's lock while it decodes and resizes.
    """
    images = _allocate((count, *image_size, 3))
    problems = {}

    def work(start):
        stop = min(start + CHUNK, count)
        for i in range(start, stop):
            try:
                images[i] = picture(i, image_size)
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


def _bad_pictures(source, problems, total):
    reasons = [problems[i].rstrip(".") for i in sorted(problems)]
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return (
        f"{len(reasons)} of {total} pictures in {source!r} cannot be used: {'; '.join(reasons[:5])}{more}. "
        "Mend or delete them; --skip-bad (skip_bad=True) leaves them out."
    )


def _check_none_emptied(source, classes, items, kept):
    lost = {(item.label, item.split) for item in items} - {(item.label, item.split) for item in kept}
    if lost:
        label, split = min(lost)
        raise InputError(
            f"class {classes[label]!r} of {source!r} has no {split} pictures left without its bad ones: "
            "add good ones or delete the class."
        )


def _data(images, classes, items, source, fingerprint, skipped):
    labels = np.array([item.label for item in items], np.int32)
    names = [item.name for item in items]
    n = sum(item.split == "train" for item in items)
    return ImageData(
        train=Split(images[:n], labels[:n], names[:n]),
        test=Split(images[n:], labels[n:], names[n:]),
        labels=list(classes),
        source=str(source),
        fingerprint=fingerprint,
        skipped=skipped,
    )


def _digits(test_fraction, seed):
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(grey[..., None], 3, axis=-1), digits.target
    parts = np.full(len(labels), "train", dtype="<U5")
    for label in range(10):
        members = np.flatnonzero(labels == label)
        parts[members[sorted(choose(len(members), test_fraction, seed, label))]] = "test"
    # As from folders: training first, and each split class by class.
    order = np.lexsort((np.arange(len(labels)), labels, parts != "train"))
    items = [Item(f"digits/{i:04d}", str(parts[i]), int(labels[i])) for i in order]
    return _built_in(pixels[order], [str(i) for i in range(10)], items)


def _cifar10(test_fraction, seed):
    del test_fraction, seed  # it has its own split
    import keras

    try:
        (train, train_labels), (test, test_labels) = keras.datasets.cifar10.load_data()
    except Exception as error:  # whatever the network or a damaged cache brings
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"'cifar10' could not be downloaded ({why}): it needs the network the first time. A folder or "
            ".zip with one subfolder per class works without."
        ) from error
    pixels = np.concatenate([train, test])
    if pixels.shape[1] == 3:  # Keras is set to "channels_first"
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    items = [
        Item(f"cifar10/{split}/{i:05d}", split, int(label))
        for split, labels in (("train", train_labels), ("test", test_labels))
        for i, label in enumerate(np.ravel(labels))
    ]
    return _built_in(pixels, list(CIFAR10), items)


def _built_in(pixels, classes, items):
    marks = "".join(f"{item.split} {item.label}\n" for item in items)
    return pixels, classes, items, digest([*classes, marks, pixels.tobytes()])
