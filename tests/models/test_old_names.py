"""Files of version 0.1 still load: `classes`, `heads`, `kind` and `folded` have other names now."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from random_weights import randomize

import keras_vit
from keras_vit import MaskedViT, MultimodalViT, ViT, layers, modalities
from keras_vit.errors import InputError
from keras_vit.export import fold
from keras_vit.losses import MaskedReconstruction
from keras_vit.mobile_demo.site import CIFAR10
from keras_vit.training.recipes import recipe_from
from keras_vit.training.runs import read_run

# Configs and answers of version 0.1.
OLD_FILES = json.loads((Path(__file__).parent / "old_files.json").read_text())
SMALL = {"patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16}
OLD = {"num_classes": "classes", "num_heads": "heads", "distance": "kind"}


def with_old_names(value):
    if isinstance(value, dict):
        return {OLD.get(key, key): with_old_names(part) for key, part in value.items()}
    return [with_old_names(part) for part in value] if isinstance(value, list) else value


def saved_under_old_names(model, path):
    model.save(path)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    config = json.loads(content["config.json"])
    content["config.json"] = json.dumps(with_old_names(config)).encode()
    assert b"num_heads" not in content["config.json"] and b'"heads"' in content["config.json"]
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def vit(**options):
    return ViT("Nano/4", image_size=8, num_classes=3, **SMALL | options)


def multimodal(**options):
    parts = {
        "image": modalities.Image(8, 4, depth=1, num_heads=2),
        "text": modalities.Text(["a", "b"], 4, sentence=2, num_heads=2),
    }
    return MultimodalViT(parts, width=16, depth=1, num_heads=2, num_classes=3, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: vit(position="relative"),
        lambda: vit(pooling="attention"),
        lambda: MaskedViT(vit().rebuilt(num_classes=None)),
        multimodal,
    ],
)
def test_models(make, tmp_path):
    model = randomize(make())
    loaded = keras.models.load_model(saved_under_old_names(model, tmp_path / "old.keras"))
    assert [w.path.partition("/")[2] for w in loaded.weights] == [
        w.path.partition("/")[2] for w in model.weights
    ]
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.get_config().get("num_classes") == model.get_config().get("num_classes")


def test_the_kept_run_and_its_quantized_models():
    """They answer as version 0.1 did, though their configs have `folded`."""
    run = CIFAR10.parent / "run"
    recipe = recipe_from(read_run(run)["recipe"])
    model = keras.models.load_model(run / "model.keras")
    assert (model.num_classes, model.config.num_heads) == (10, recipe.variant["num_heads"])
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for name, expected in OLD_FILES["kept"].items():
        loaded = keras.models.load_model(CIFAR10 / "keras" / f"{name}.keras")
        # Another processor may round to another of 255 steps.
        atol = 1e-4 if name == "float32" else 0.02
        np.testing.assert_allclose(np.asarray(loaded(images)), expected, atol=atol, err_msg=name)
    assert keras_vit.ViTConfig.of(recipe.variant).num_heads == model.config.num_heads


@pytest.mark.parametrize(
    ("layer", "new", "old"),
    [
        (layers.Attention(2, "hard", top_k=2), "attention_type", "kind"),
        (layers.Pooling("mean"), "pool_type", "kind"),
        (MaskedReconstruction(distance="l1"), "distance", "kind"),
    ],
)
def test_layers(layer, new, old):
    config = layer.get_config()
    saved = {old if key == new else key: value for key, value in config.items()}
    assert type(layer).from_config(saved).get_config() == config != saved


LACKING = {"scale": 1.0, "average": False, "key_bias": False, "value_bias": False}
NORM = {"affine": False, "centre": False}
LAYERS = {
    "Attention": lambda: layers.Attention(2, "hard", top_k=2, name="l", **LACKING),
    "EncoderBlock": lambda: layers.EncoderBlock(2, 8, {"attention_type": "relu"} | LACKING, name="l", **NORM),
    "AttentionPooling": lambda: layers.AttentionPooling(2, 8, attention=LACKING, affine=False, name="l"),
    "PatchMerger": lambda: layers.PatchMerger(2, name="l", **NORM),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_folded_said_of_layers(name):
    layer = LAYERS[name]()
    assert type(layer).from_config(OLD_FILES["configs"][name]).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pooled", lambda: vit(pooling="attention", merge=(0, 2), name="m")),
        ("relu", lambda: vit(attention="relu", name="m")),
        ("multimodal", lambda: multimodal(name="m")),
    ],
)
def test_what_folded_said_of_models(name, make):
    folded = fold(make(), pixels=False)
    loaded = type(folded).from_config(OLD_FILES["configs"][name])
    assert loaded.get_config() == folded.get_config()
    assert [w.shape for w in loaded.weights] == [w.shape for w in folded.weights]


def test_options_of_attention_in_a_saved_block():
    config = layers.EncoderBlock(2, 8, {"attention_type": "relu"}).get_config()
    saved = {**config, "attention": {"kind": "relu"}}
    block = layers.EncoderBlock.from_config(saved)
    assert block.attention.attention_type == "relu" and block.get_config() == config


def test_an_old_name_in_code_is_refused_with_the_new_one():
    with pytest.raises(InputError, match="classes is called num_classes"):
        ViT("Nano/4", image_size=8, classes=3)
    with pytest.raises(InputError, match="heads is called num_heads"):
        ViT("Nano/4", image_size=8, heads=3)
