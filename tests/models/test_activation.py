"""`activation`: what the logits of a head mean."""

import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

from keras_vit import MultimodalViT, ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.modalities import Action
from keras_vit.models.activation import activate

CONFIG = ViTConfig(patch_size=4, width=8, depth=1, num_heads=2, mlp_width=8)


def vit(num_classes, **options):
    return ViT(CONFIG, image_size=8, num_classes=num_classes, **options)


def multimodal(num_classes, **options):
    track = Action(steps=2, features=3)
    return MultimodalViT({"track": track}, width=8, depth=1, num_heads=2, num_classes=num_classes, **options)


@pytest.mark.parametrize("make", [vit, multimodal])
def test_one_logit_is_a_sigmoid_and_several_a_softmax_unless_told(make):
    assert make(1).activation == "sigmoid"
    assert make(2).activation == make(None).activation == "softmax"
    assert make(3, activation="sigmoid").activation == "sigmoid"
    assert make(1, activation=None).activation is make(3, activation=None).activation is None
    with pytest.raises(
        InputError, match=r"softmax' with num_classes=1 is always 1\.0: use activation='sigmoid'"
    ):
        make(1, activation="softmax")
    with pytest.raises(
        InputError, match="activation must be 'softmax', 'sigmoid', None or 'auto', not 'relu'"
    ):
        make(2, activation="relu")


@pytest.mark.parametrize("make", [vit, multimodal])
@pytest.mark.parametrize(
    ("num_classes", "activation"), [(1, "auto"), (3, "sigmoid"), (3, None), (3, "softmax")]
)
def test_it_is_saved_and_copied(make, num_classes, activation, tmp_path):
    model = make(num_classes, activation=activation)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").activation == model.activation
    assert keras.models.clone_model(model).activation == model.activation


@pytest.mark.parametrize("make", [vit, multimodal])
def test_a_file_from_before_there_was_one_loads(make):
    for num_classes, expected in ((3, "softmax"), (1, "sigmoid")):
        config = make(num_classes).get_config()
        del config["activation"]
        assert make(3).from_config(config).activation == expected


def test_another_head_keeps_what_was_chosen():
    several = vit(3, activation="sigmoid")
    assert several.rebuilt(image_size=16).activation == "sigmoid"
    assert several.rebuilt(num_classes=5).activation == "sigmoid"
    assert several.reset_classifier(5).activation == "sigmoid", "also by way of no head at all"
    assert vit(3).rebuilt(num_classes=1).activation == "sigmoid"
    assert vit(1).rebuilt(num_classes=3).activation == "softmax", "one logit's sigmoid was not a choice"
    assert vit(1).reset_classifier(1).activation == "sigmoid"
    assert vit(3, activation=None).rebuilt(num_classes=1).activation is None
    assert several.rebuilt(activation="softmax").activation == "softmax"
    assert multimodal(3).recast(num_classes=1).activation == "sigmoid"


def test_activate_is_scipys_in_float32_whatever_the_model_computes_in():
    logits = np.random.default_rng(0).normal(0, 4, (5, 3)).astype("float16")
    exact = logits.astype("float64")
    for activation, expected in (("softmax", softmax(exact, -1)), ("sigmoid", expit(exact)), (None, exact)):
        found = np.asarray(activate(logits, activation))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.asarray(activate(logits[:, :1], "sigmoid")).shape == (5, 1)
