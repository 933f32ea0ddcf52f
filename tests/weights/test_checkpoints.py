"""`load_into`: every variable of the model, or a message that says which do not fit."""

import dataclasses

import numpy as np
import pytest

import keras_vit
from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.models.checkpoints import load_into, load_model
from keras_vit.weights import read_checkpoint

from .conftest import FIXTURES


@pytest.fixture
def checkpoint():
    return read_checkpoint(FIXTURES / "timm_vit")


def build(checkpoint, **changes):
    arguments = {"image_size": checkpoint.image_size, "num_classes": checkpoint.num_classes, **changes}
    return keras_vit.ViT(checkpoint.config, **arguments)


def test_every_variable_is_assigned_under_any_name_of_the_model(checkpoint):
    model = build(checkpoint, name="another")
    load_into(model, checkpoint)
    assert len(model.weights) == len(checkpoint.tensors)
    for variable in model.weights:
        name = variable.path.removeprefix("another/")
        np.testing.assert_array_equal(np.asarray(variable), checkpoint.tensors[name])


def test_another_number_of_classes_keeps_the_fresh_head(checkpoint):
    model = build(checkpoint, num_classes=3)
    load_into(model, checkpoint)
    assert not np.any(np.asarray(model.head.kernel))
    np.testing.assert_array_equal(np.asarray(model.cls), checkpoint.tensors["cls"])


def test_misfits_are_named_and_nothing_is_changed(checkpoint):
    tensors = dict(checkpoint.tensors, strange=np.ones(1, "float32"), cls=np.ones((1, 1, 7), "float32"))
    for i in range(2):
        for part in ("query", "key", "value"):
            del tensors[f"block_{i}/attention/{part}/bias"]
    model = build(checkpoint)
    before = model.get_weights()
    with pytest.raises(
        InputError,
        match=r"6 missing \((block_\S+, ){5}\.\.\.\); 1 unknown \(strange\); "
        r"1 of another shape \(cls \[1, 1, 7\] instead of \[1, 1, 16\]\)",
    ):
        load_into(model, dataclasses.replace(checkpoint, tensors=tensors))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_load_model_returns_the_checkpoint_and_takes_changes():
    model, checkpoint = load_model(
        ViT, FIXTURES / "hugging_face_vit_old", stochastic_depth=0.1, dtype="bfloat16"
    )
    assert (checkpoint.format, checkpoint.labels[0]) == ("hugging_face", "ant")
    assert model.config.stochastic_depth == 0.1 and model.compute_dtype == "bfloat16"
    assert model.preprocessing == checkpoint.preprocessing
