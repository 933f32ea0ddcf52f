"""Small models of both kinds, with the weights that seed 0 gives."""

import keras

from keras_vit import MultimodalViT, ViT
from keras_vit.modalities import Image, Text, Vocabulary


def vit(**changes):
    keras.utils.set_random_seed(0)
    return ViT("Nano/4", image_size=8, num_classes=3, depth=2, **changes)


def several():
    """A `MultimodalViT` of an image and a visual sentence."""
    keras.utils.set_random_seed(0)
    modalities = {"image": Image(8, 4, depth=1), "text": Text(Vocabulary(["a", "b"]), length=3, sentence=2)}
    return MultimodalViT(modalities, width=16, depth=1, num_heads=2, num_classes=3)
