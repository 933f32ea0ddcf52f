"""Checkpoints for grey pictures and many channels, made of the fixtures by arithmetic on one kernel."""

import json

import numpy as np
import pytest

import keras_vit
from keras_vit.errors import InputError
from keras_vit.weights import read_checkpoint

from .conftest import FIXTURES

KERNELS = {  # name: (the first kernel in the file, its axis of channels)
    "original": ("embedding/kernel", 2),
    "hugging_face_vit_old": ("vit.embeddings.patch_embeddings.projection.weight", 1),
    "timm_vit": ("patch_embed.proj.weight", 1),
}


def remade(fixture, edit_tensors, edit_json, name, change):
    """The folder of a fixture whose first kernel is `change(kernel, its axis)`."""
    folder, (key, axis) = fixture(name), KERNELS[name]
    if name == "original":
        tensors = dict(np.load(folder / "vit.npz"))
        np.savez(folder / "vit.npz", **{**tensors, key: change(tensors[key], axis)})
        return folder
    edit_tensors(folder, lambda tensors: tensors | {key: change(tensors[key], axis)})
    if name.startswith("hugging_face"):
        edit_json(
            folder / "config.json", num_channels=change(np.ones((1,) * axis + (3, 1)), axis).shape[axis]
        )
    return folder


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_of_one_channel_makes_a_model_of_grey_pictures(fixture, edit_tensors, edit_json, name):
    """Of which the sum over RGB is an instance: it answers as the old one does to three equal channels."""
    grey = np.load(FIXTURES / "images.npy")[..., :1]
    old = keras_vit.ViT.from_checkpoint(FIXTURES / name)
    folder = remade(fixture, edit_tensors, edit_json, name, lambda k, axis: k.sum(axis, keepdims=True))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config.channels == 1
    mean = np.mean(old.preprocessing["mean"])
    assert checkpoint.preprocessing["mean"] == pytest.approx([mean])
    new = keras_vit.ViT.from_checkpoint(folder)
    np.testing.assert_allclose(new(grey), old(np.repeat(grey, 3, axis=3)), atol=1e-5)


def test_a_kernel_of_five_channels(fixture, edit_tensors, edit_json):
    images = np.load(FIXTURES / "images.npy")
    folder = remade(
        fixture, edit_tensors, edit_json, "timm_vit", lambda k, axis: np.concatenate([k, k[:, :2]], axis)
    )
    new = keras_vit.ViT.from_checkpoint(folder)
    assert new.config.channels == 5 and len(new.preprocessing["std"]) == 5
    old = keras_vit.ViT.from_checkpoint(FIXTURES / "timm_vit")
    silent = np.concatenate([images, np.zeros_like(images[..., :2])], axis=3)
    np.testing.assert_allclose(new(silent), old(images), atol=1e-5)


def test_a_checkpoint_is_read_for_other_channels():
    images = np.load(FIXTURES / "images.npy")
    old = keras_vit.ViT.from_checkpoint(FIXTURES / "timm_vit")
    new = keras_vit.ViT.from_checkpoint(FIXTURES / "timm_vit", channels=1, include_preprocessing=True)
    grey = np.random.default_rng(0).integers(0, 256, (2, *old.image_size, 1)).astype("float32")
    np.testing.assert_allclose(new(grey), old(np.repeat(grey, 3, axis=3) / 127.5 - 1), atol=1e-5)
    assert images.shape[3] == 3


def test_a_config_that_says_other_channels_than_the_file(fixture, edit_json):
    folder = fixture("hugging_face_vit_old")
    edit_json(folder / "config.json", num_channels=1)
    with pytest.raises(InputError, match=r"projection.weight \[16, 3, 4, 4\] instead of \[16, 1, 4, 4\]"):
        read_checkpoint(folder)
    assert json.loads((folder / "config.json").read_text())["num_channels"] == 1
