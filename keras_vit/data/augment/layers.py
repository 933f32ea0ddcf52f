"""The layers of Keras and keras-cv that augmentation uses, made so that only their transformations are used.

This is the only file that knows keras-cv, which is no longer developed.
"""

import contextlib
import io
from typing import TYPE_CHECKING

from keras_vit.errors import NotInstalled

if TYPE_CHECKING:
    import keras


def keras_layer(class_name: str, **options: object) -> "keras.layers.Layer":
    """A layer of Keras' `image_preprocessing`, for its `transform_images` and `transform_labels`.

    These take the transformation, which we draw ourselves.

    Args:
        class_name: name of the class in `keras.layers`.
        **options: of its constructor.
    """
    import keras

    # The seed is never used, but without one the layer would take a number from Python's generator, and the
    # weights of a model that is built later would depend on the augmentation.
    if class_name != "AutoContrast":
        options["seed"] = 0
    layer = getattr(keras.layers, class_name)(dtype="float32", data_format="channels_last", **options)
    layer.backend.set_backend("tensorflow")  # we are in tf.data, also where the model is trained by JAX
    return layer


def sharpness() -> "keras.layers.Layer":
    """keras-cv's RandomSharpness, for its `augment_images(images, factor [B, 1, 1, 1])`.

    Factor 1 is smooth, 0 the image, -1 twice as sharp. Unlike Keras' own, it does not darken the border.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it greets on standard output
            import keras_cv
    except ImportError:
        raise NotInstalled("the augmentation 'strong' (RandAugment)", "keras-cv") from None
    return keras_cv.layers.RandomSharpness(0.5, value_range=(0, 255), dtype="float32")
