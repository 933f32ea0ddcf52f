"""Augmentation: named policies, each a few steps one after another.

A policy, and each of its steps, maps (images float32 [B, H, W, C] from 0 to 255, labels float32
[B, num_classes] that sum to 1, seed int32 [2]) to images and labels of the same shapes. Every draw is a pure
function of the seed, so that a run that was interrupted sees the very same pictures when it goes on. The
layers of Keras and keras-cv draw from a state of their own instead: we draw, and hand them the transformation
(`layers.py`).
"""

import tensorflow as tf

from keras_vit.data.augment.erasing import erase
from keras_vit.data.augment.geometry import affine, crop_and_resize, mirror, shift
from keras_vit.data.augment.mixing import cut_mix, either, mix_up
from keras_vit.data.augment.rand_augment import rand_augment
from keras_vit.data.augment.step import Step
from keras_vit.errors import one_of

# What each policy does, as {title: step}. "strong" is nearly what DeiT (Touvron et al. 2021) and Compact
# Transformers (Hassani et al. 2021) train with, in their order, with the RandAugment of its paper.
POLICIES = {
    "none": lambda: {},
    "affine": lambda: {"affine map": affine()},
    "light": lambda: {"crop, resize": crop_and_resize(), "mirror": mirror()},
    "crop": lambda: {"crop": shift(), "mirror": mirror()},
    "strong": lambda: {
        "crop": shift(),
        "mirror": mirror(),
        "RandAugment": rand_augment(),
        "erasing": erase(),
        "MixUp or CutMix": either(mix_up(), cut_mix()),
    },
}


def policy(name: str) -> Step:
    """The augmentation called `name`: (images, labels, seed) -> (images, labels).

    Args:
        name: "none"; "affine" (turn, stretch, shear, move; no mirror, so it suits characters); "light" (crop
            60% to 100% of the area, resize, mirror); "crop" (move by up to 1/8 of the size, mirror: the usual
            one for CIFAR); "strong" (that, RandAugment, random erasing, then MixUp or CutMix).

    Raises:
        InputError: an unknown name.
    """
    steps = POLICIES[one_of("augmentation", name, POLICIES)]().values()

    def augment(images, labels, seed):
        for number, step in enumerate(steps):
            images, labels = step(images, labels, tf.random.fold_in(seed, number))
        return images, labels

    return augment


def parts(name: str) -> dict[str, Step]:
    """{title: step} of a policy, each alone and sure to act, to be looked at: `keras-vit show`."""
    sure = {"mirror": mirror(1.0), "erasing": erase(1.0)}
    steps = {
        title: sure.get(title, step)
        for title, step in POLICIES[one_of("augmentation", name, POLICIES)]().items()
    }
    if steps.pop("MixUp or CutMix", None):
        steps |= {"MixUp": mix_up(), "CutMix": cut_mix()}
    return steps
