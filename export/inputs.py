"""Examples in whatever form a person has them: an array, a tf.data dataset, a folder, an `ImageData` ..."""

import os

import numpy as np

from keras_vit.errors import InputError
from keras_vit.export.calibration import IMAGES, Calibration, checked_integer
from keras_vit.training.data import ImageData, Split, load_data
from keras_vit.training.examples import Examples, MultimodalData


def calibration_inputs(data, model, count=IMAGES, seed=0):
    """{name: `count` raw inputs}, drawn from `data` by `seed`; all, if there are fewer.

    Args:
        data: of a `ViT` whatever `calibration_images` takes; of a `MultimodalViT` a `MultimodalData` (its
            training part), `Examples`, {name: array [N, ...]}; or a `Calibration` of one of these.
        model: what they are for.
    """
    if hasattr(model, "image_size"):
        return {"image": calibration_images(data, model.image_size, count, seed)}
    if isinstance(data, Calibration):
        data, count, seed = data.data, data.images, data.seed
    examples = multimodal_examples(data, "train")
    return examples.take(sample(len(examples), count, seed))


def multimodal_examples(data, part):
    """The `Examples` of `part` ("train" or "test") of what stands for a multimodal data set."""
    if isinstance(data, str | os.PathLike):
        from keras_vit.training.multimodal_data import load_examples

        data = load_examples(data)
    if isinstance(data, MultimodalData):
        data = getattr(data, part)
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


def calibration_images(data, image_size, count=IMAGES, seed=0):
    """`count` images [N, H, W, 3] with values 0..255, drawn from `data` by `seed`; all, if there are fewer.

    Args:
        data: such an array; a tf.data dataset of images or (images, labels), batched or not, of which the
            first ones are taken, since it may have no end; a folder, .zip or built-in name; an
            `ImageData`. Of the last two the training part. Or a `Calibration` of one of these, whose
            own number and seed count.
        image_size: (height, width) to which a folder's pictures are brought.
    """
    if isinstance(data, Calibration):
        data, count, seed = data.data, data.images, data.seed
    if isinstance(data, str | os.PathLike):
        data = load_data(data, image_size)
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


def labelled_images(data, image_size):
    """(images uint8 [N, H, W, 3], labels [N] or [N, classes]) to verify with.

    Args:
        data: such a pair; a tf.data dataset of them (labels as numbers, or a row for each), batched or not;
            a folder, .zip or built-in name; an `ImageData`. Of the last two the held-out part.
        image_size: (height, width) to which a folder's pictures are brought.
    """
    if isinstance(data, str | os.PathLike):
        data = load_data(data, image_size)
    if isinstance(data, ImageData):
        data = data.test
    if hasattr(data, "as_numpy_iterator"):
        images, labels = _from_dataset(data)
        if labels is None:
            raise InputError("the dataset has images but no labels: give one of (images, labels).")
        # Only whole numbers are pixels: others were normalised, and would be judged as something else.
        if (
            images.dtype != np.uint8
            and not ((images == np.round(images)) & (images >= 0) & (images <= 255)).all()
        ):
            raise InputError("the dataset's images are not pixels 0..255: leave out its normalisation.")
        return images.astype(np.uint8), labels
    if isinstance(data, tuple):
        return data
    if not (hasattr(data, "images") and hasattr(data, "labels")):
        raise InputError(
            f"cannot verify with a {type(data).__name__}: give (images, labels), a tf.data dataset of them, "
            "or a folder."
        )
    return data.images, data.labels


def _from_dataset(dataset, most=None):
    """(images, labels or None) of a tf.data dataset, up to `most` images."""
    images, labels, count = [], [], 0
    for element in dataset.as_numpy_iterator():
        image, label = element[:2] if isinstance(element, tuple) else (element, None)
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
