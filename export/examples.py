"""Examples in whatever form a person has them: an array, a tf.data dataset, a folder, an `ImageData` ..."""

import dataclasses
import os
import warnings

import numpy as np

from keras_vit.answers import both_names
from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.data.image_data import ImageData, Split, load_data
from keras_vit.data.pixel_range import as_pixels, pixels_problem
from keras_vit.errors import InputError, Notice
from keras_vit.export.quantization.calibration import IMAGES, Calibration, checked_integer


def calibration_inputs(data, model, count=IMAGES, seed=0):
    """{name: `count` raw inputs}, drawn from `data` by `seed`; all, if there are fewer.

    Args:
        data: of a `ViT` whatever `calibration_images` takes; of a `MultimodalViT` a `MultimodalData` (its
            training part), `Examples`, {name: array [N, ...]}; or a `Calibration` of one of these.
        model: what they are for.
    """
    if hasattr(model, "image_size"):
        channels = model.signature()["image"]["shape"][2]
        return {"image": calibration_images(data, model.image_size, count, seed, channels)}
    if isinstance(data, Calibration):
        data, count, seed = data.data, data.images, data.seed
    examples = multimodal_examples(data, "train")
    return examples.take(sample(len(examples), count, seed))


def multimodal_examples(data, part, class_names=None):
    """The `Examples` of `part` ("train" or "test") of what stands for a multimodal data set.

    `class_names` are the names that their labels shall number, see `renumbered`.
    """
    if isinstance(data, str | os.PathLike):
        from keras_vit.data.multimodal import load_examples

        data = load_examples(data)
    if isinstance(data, MultimodalData):
        examples = getattr(data, part)
        data = dataclasses.replace(examples, labels=renumbered(examples.labels, data.labels, class_names))
    if isinstance(data, tuple) and len(data) == 2:
        data = Examples(data[0], np.asarray(data[1]))
    if isinstance(data, dict):
        data = Examples(data, np.zeros(max((len(x) for x in data.values()), default=0), "int32"))
    if not isinstance(data, Examples):
        raise InputError(
            f"a multimodal model takes examples as {{name: array}}, MultimodalData or a folder with a table, "
            f"not {type(data).__name__}."
        )
    for name, x in data.inputs.items():
        if len(x) != len(data):
            raise InputError(
                f"{len(x)} examples of {name!r} for {len(data)} of the others: give as many of each."
            )
    return data


def calibration_images(data, image_size, count=IMAGES, seed=0, channels=3):
    """`count` images [N, H, W, C] with values 0..255, drawn from `data` by `seed`; all, if there are fewer.

    Args:
        data: such an array; a tf.data dataset of images or (images, labels), batched or not, of which the
            first ones are taken, since it may have no end; a folder, .zip or built-in name; an
            `ImageData`. Of the last two the training part. Or a `Calibration` of one of these, whose
            own number and seed count.
        image_size, channels: (height, width) and channels to which a folder's pictures are brought.
    """
    if isinstance(data, Calibration):
        data, count, seed = data.data, data.images, data.seed
    if isinstance(data, str | os.PathLike):
        data = load_data(data, image_size, channels=channels)
    if isinstance(data, ImageData):
        data = data.train
    if isinstance(data, Split):
        data = data.images
    if hasattr(data, "as_numpy_iterator"):
        data, _ = _from_dataset(data, count)
    if isinstance(data, np.ndarray):
        data = data[sample(len(data), count, seed)]
    return np.asarray(data)


def sample(total, count, seed):
    """Indices of `count` of `total` things by `seed`, none of them twice, in their order."""
    checked_integer("the number of images", count, least=1)
    checked_integer("seed", seed, least=0)
    if count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def labelled_images(data, image_size, class_names=None, channels=3, part="test"):
    """(images uint8 [N, H, W, C], labels [N] or [N, num_classes]) to verify with.

    Args:
        data: such a pair; a tf.data dataset of them (labels as numbers, or a row for each), batched or not;
            a folder, .zip or built-in name; an `ImageData`. Pixels may be floats in 0..255, as
            `keras.utils.image_dataset_from_directory` gives: they are rounded.
        image_size, channels: (height, width) and channels to which a folder's pictures are brought.
        class_names: those that labels shall number, see `renumbered`; None leaves them as they are.
        part: which pictures of the last three kinds: "test", or those to make a choice by, "choosing".
    """
    if isinstance(data, str | os.PathLike):
        data = load_data(data, image_size, channels=channels)
    names = class_names_of(data)
    if isinstance(data, ImageData):
        data = getattr(data, part)
    if hasattr(data, "as_numpy_iterator"):
        if hasattr(data, "cardinality") and int(data.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
            raise InputError("the dataset has no end: leave out its repeat(), or give dataset.take(N).")
        images, labels = _from_dataset(data)
        if labels is None:
            raise InputError("the dataset has images but no labels: give one of (images, labels).")
        return _pixels(images, "the dataset's images"), renumbered(labels, names, class_names)
    if isinstance(data, tuple) and len(data) == 2:
        images, labels = data
        if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.size:
            images = _pixels(images, "the images")
        return images, labels
    if not (hasattr(data, "images") and hasattr(data, "labels")):
        raise InputError(
            f"cannot verify with a {type(data).__name__}: give (images, labels), a tf.data dataset of them, "
            "or a folder."
        )
    return data.images, renumbered(data.labels, names, class_names)


def class_names_of(data):
    """The class names that a data set has, an `ImageData` or what Keras read from folders; or None."""
    if isinstance(data, ImageData | MultimodalData):
        return list(data.labels)
    names = getattr(data, "class_names", None)  # Dataset.map and the like lose it
    return None if names is None else [str(name) for name in names]


def renumbered(labels, source_names, target_names):
    """`labels`, which are indices into the class names `source_names`, as indices into `target_names`.

    Keras sorts class folders as text ("10" before "2") and `load_data` by number. The labels stay
    where either list is None, or `target_names` is the "0", "1", ... of an export that was given no names.

    Warns:
        that the two have another order.

    Raises:
        InputError: they are names of other classes.
    """
    if source_names is None or target_names is None or list(source_names) == list(target_names):
        return labels
    source_names, target_names = list(source_names), _fitting(list(source_names), list(target_names))
    if source_names == target_names:
        return labels
    if sorted(source_names) == sorted(target_names) and len(set(target_names)) == len(target_names):
        warnings.warn(
            f"{_difference(source_names, target_names)}: its labels are renumbered by name.",
            Notice,
            stacklevel=3,
        )
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] == len(source_names):
            return labels[:, [source_names.index(name) for name in target_names]]
        if not labels.size or labels.min() < 0 or labels.max() >= len(source_names):
            return labels  # they are none: whoever asked will say so
        return np.array([target_names.index(name) for name in source_names])[labels.astype("int64")]
    if target_names == [str(i) for i in range(len(target_names))]:
        return labels
    raise InputError(
        f"the data has the classes {', '.join(source_names[:5])} ({len(source_names)}), and the model "
        f"{', '.join(target_names[:5])} ({len(target_names)}): give data that has those."
    )


def _fitting(source, target):
    """`target`, with the name in `source` for what was named "not defect" beside "defect" (`both_names`)."""
    if len(source) == len(target) == 2 and target == both_names(target[1:]) and target[1] in source:
        return [*(name for name in source if name != target[1]), target[1]]
    return target


def compare_order(data, labels):
    """Say so when `data` (for a calibration, say) has the classes `labels` in another order."""
    source = class_names_of(data.data if isinstance(data, Calibration) else data)
    if source is not None and source != list(labels) and sorted(source) == sorted(labels):
        warnings.warn(
            f"{_difference(source, list(labels))}: give `labels` in the order in which it was trained, "
            "such as labels=dataset.class_names.",
            Notice,
            stacklevel=3,
        )


def _difference(source, target):
    at = next(i for i, name in enumerate(source) if name != target[i])
    return (
        f"the data has its classes in another order (number {at} is {source[at]!r}, not {target[at]!r}) than "
        "the class names of the model"
    )


def _pixels(images, what):
    if problem := pixels_problem(images):
        raise InputError(f"{what} {problem}.")
    return as_pixels(images)


def _from_dataset(dataset, most=None):
    """(images, labels or None) of a tf.data dataset, up to `most` images."""
    images, labels, count = [], [], 0
    for element in dataset.as_numpy_iterator():
        image, label = element[:2] if isinstance(element, tuple) else (element, None)
        if (
            not isinstance(image, np.ndarray)
            or image.ndim not in (3, 4)
            or not (label is None or np.size(label))
        ):
            raise InputError(
                f"an element of the dataset is {_shown(element)}: give one of images [H, W, 3], or batches "
                "of them, or of (images, labels)."
            )
        if images and images[0].shape[1:] != image.shape[-3:]:
            raise InputError(
                f"the dataset has pictures of {list(images[0].shape[1:])} and of {list(image.shape[-3:])}: "
                "bring them to one size."
            )
        single = np.ndim(image) == 3
        images.append(np.asarray(image)[None] if single else np.asarray(image))
        if label is not None:
            labels.append(np.asarray(label)[None] if single else np.asarray(label))
        count += len(images[-1])
        if most and count >= most:
            break
    if not images:
        raise InputError("the dataset is empty: give one with images.")
    labels = np.concatenate(labels) if labels else None
    return np.concatenate(images)[:most], labels


def _shown(element):
    parts = element if isinstance(element, tuple) else (element,)
    return " and ".join(
        f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray | np.generic) else f"a {type(x).__name__}"
        for x in parts
    )
