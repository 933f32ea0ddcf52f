"""Sets of pictures by name: digits, cifar10, and those of tensorflow-datasets, as `ImageIndex`.

They come in the order of files: training first, digits class by class.
"""

import contextlib
import io

import numpy as np

from keras_vit.data.index import ImageIndex, median_size
from keras_vit.data.layout import PARTS, Item, choose, digest, listed
from keras_vit.data.sources import BUILT_IN, TFDS
from keras_vit.errors import InputError
from keras_vit.labels import check_class_names

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def open_built_in(source: str, test_fraction: float, seed: int) -> ImageIndex:
    """The `ImageIndex` called `source`. Raises InputError."""
    if source.startswith(TFDS):
        return _tfds(source, test_fraction, seed)
    return _digits(test_fraction, seed) if source == "digits" else _cifar10()


def _digits(test_fraction, seed):
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels, labels = np.repeat(grey[..., None], 3, axis=-1), digits.target
    parts = _parts(labels, test_fraction, seed)
    order = np.lexsort((np.arange(len(labels)), labels, parts != "train"))
    items = [Item(f"digits/{i:04d}", str(parts[i]), int(labels[i])) for i in order]
    return _of_arrays("digits", pixels[order], [str(i) for i in range(10)], items)


def _cifar10():  # it has its own split
    import keras

    try:
        (train, train_labels), (test, test_labels) = keras.datasets.cifar10.load_data()
    except Exception as error:  # whatever the network or a damaged cache brings
        raise InputError(
            f"'cifar10' could not be downloaded ({_first_line(error)}): it needs the network the first time. "
            "A folder or .zip with one subfolder per class works without."
        ) from error
    pixels = np.concatenate([train, test])
    if pixels.shape[1] == 3:  # Keras is set to "channels_first"
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    items = [
        Item(f"cifar10/{split}/{i:05d}", split, int(label))
        for split, labels in (("train", train_labels), ("test", test_labels))
        for i, label in enumerate(np.ravel(labels))
    ]
    return _of_arrays("cifar10", pixels, list(CIFAR10), items)


def _of_arrays(source, pixels, labels, items):
    fingerprint = digest([*labels, _marks(items), pixels.tobytes()])
    return ImageIndex(source, labels, items, fingerprint, pixels.__getitem__, lambda: BUILT_IN[source])


def _tfds(source, test_fraction, seed):
    """A classification set of tensorflow-datasets; its release stands for its content in the fingerprint."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(f"{source!r} needs another package: pip install tensorflow-datasets") from None
    try:
        builder = tfds.builder(source.removeprefix(TFDS), file_format="array_record")
        _check_features(source, tfds, builder.info)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except InputError:
        raise
    except Exception as error:  # no such name, no network, no room: its exceptions have no common class
        raise InputError(
            f"{source!r} cannot be had from tensorflow-datasets ({_first_line(error)}): check the name at "
            "tensorflow.org/datasets/catalog, and the network, which it needs the first time."
        ) from error
    test = next((name for name in ("test", "validation") if name in builder.info.splits), None)
    if "train" not in builder.info.splits:
        raise InputError(
            f"{source!r} has no split 'train', but {listed(list(builder.info.splits))}: use another set."
        )
    name_of_split = {"train": "train", "test": test} if test else {"train": "train"}
    if test == "test" and "validation" in builder.info.splits:
        name_of_split["val"] = "validation"
    sets = {  # the files as they are: our own decoder reads them, as it does others
        split: builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
        for split, name in name_of_split.items()
    }
    places, items = [], []
    for split, examples in sets.items():
        labels = [int(examples[i]["label"]) for i in range(len(examples))]
        parts = [split] * len(labels) if test else _parts(np.array(labels), test_fraction, seed)
        places += [(split, i) for i in range(len(labels))]
        items += [
            Item(f"{builder.info.name}/{name_of_split[split]}/{i:05d}", str(part), label)
            for i, (part, label) in enumerate(zip(parts, labels, strict=True))
        ]
    order = sorted(range(len(items)), key=lambda i: PARTS.index(items[i].split))
    places, items = [places[i] for i in order], [items[i] for i in order]

    def read(i):
        split, place = places[i]
        return sets[split][place]["image"]

    names = builder.info.features["label"].names
    check_class_names(names, source)
    fingerprint = digest([*names, builder.info.full_name, _marks(items)])
    return ImageIndex(source, names, items, fingerprint, read, lambda: median_size(items, read))


def _check_features(source, tfds, info):
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    expected = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    wrong = [name for name, cls in expected.items() if not isinstance(features.get(name), cls)]
    if wrong:
        raise InputError(
            f"{source!r} has no {' and no '.join(wrong)}, but {listed(list(features)) or 'something else'}: "
            "use a set of tensorflow-datasets for image classification."
        )


def _parts(labels, test_fraction, seed):
    """ "train" or "test" for each label."""
    parts = np.full(len(labels), "train", dtype="<U5")
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        parts[members[sorted(choose(len(members), test_fraction, seed, label))]] = "test"
    return parts


def _marks(items):
    return "".join(f"{item.split} {item.label}\n" for item in items)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
