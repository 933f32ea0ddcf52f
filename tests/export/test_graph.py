"""The exact rewrites: the same logits from raw pixels, and really simpler."""

import re

import keras
import numpy as np
import pytest
from random_weights import randomize

from keras_vit import ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.export import fold
from keras_vit.export.graph import FOLDABLE, in_float32

PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def random_vit(pooling="cls", dtype=None, **changes):
    config = ViTConfig(patch_size=(4, 2), width=12, depth=2, heads=3, mlp_width=20, pooling=pooling)
    model = ViT(config, image_size=(8, 6), classes=5, preprocessing=PREPROCESSING, dtype=dtype, **changes)
    return randomize(model)


def pixels(count=6):
    return np.random.default_rng(1).integers(0, 256, (count, 8, 6, 3)).astype("float32")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_folded_model_gives_the_same_logits_from_raw_pixels(pooling):
    model = random_vit(pooling)
    normalised = (pixels() / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]
    folded = fold(model)
    np.testing.assert_allclose(np.asarray(folded(pixels())), np.asarray(model(normalised)), atol=1e-5)
    names = {v.path.split("/")[-1] for v in folded.weights}
    assert names <= {"kernel", "bias", "table", "cls"}, "no scale and shift is left"
    assert folded.count_params() < model.count_params()


@pytest.mark.parametrize(
    "changes",
    [
        *[{"position": position} for position in FOLDABLE["position"]],
        {"stem": "conv", "registers": 2, "mlp": "gelu_tanh"},
        {"distilled": True, "layer_scale": 0.1, "epsilon": 1e-3},
        {"mlp": "swiglu", "registers": 1, "pooling": "mean", "position": "none"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_part_that_export_takes_folds_exactly(changes):
    model = random_vit(**changes)
    normalised = (pixels() / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]
    folded = fold(model)
    np.testing.assert_allclose(np.asarray(folded(pixels())), np.asarray(model(normalised)), atol=2e-5)
    names = {v.path.split("/")[-1] for v in folded.weights}
    assert names <= {"kernel", "bias", "table", "cls", "distillation", "registers"}


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "compact"},
        {"position": "rotary2d", "heads": 1},
        {"pooling": "attention"},
        {"attention": "relu"},
        {"qk_norm": True},
        {"patch_mask": True},
        {"merge": (1, 2)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_part_that_export_does_not_take_is_named(changes):
    field, value = next(iter(changes.items()))
    model = ViT("Nano/2", image_size=8, classes=2, **changes)
    with pytest.raises(
        InputError, match=re.escape(f"{field}={value!r} cannot be exported yet: export takes")
    ):
        fold(model)


def test_folding_twice_changes_nothing():
    folded = fold(random_vit())
    assert fold(folded) is folded


def test_a_half_precision_model_is_folded_to_float32():
    folded = fold(random_vit(dtype="mixed_bfloat16"))
    assert folded.dtype_policy.name == "float32"


def test_a_half_precision_model_has_an_exact_twin():
    half, exact = random_vit(dtype="mixed_bfloat16"), random_vit()
    np.testing.assert_array_equal(np.asarray(in_float32(half)(pixels())), np.asarray(exact(pixels())))
    assert in_float32(exact) is exact


def test_a_folded_model_can_be_saved(tmp_path):
    folded = fold(random_vit())
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(np.asarray(loaded(pixels())), np.asarray(folded(pixels())))


def test_what_cannot_be_exported_is_named():
    with pytest.raises(InputError, match="not one without a head"):
        fold(ViT("Nano/2", image_size=8, classes=None))
    with pytest.raises(InputError, match="not Sequential"):
        fold(keras.Sequential())
