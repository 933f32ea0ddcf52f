"""Which tensor gets which quantizer: pinned, whole, for three small models."""

import functools
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_vit import MultimodalViT, ViT, modalities
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.profiles import PROFILES
from keras_vit.export.quantization.spec import quantizable_layers, quantization_spec
from keras_vit.export.tflite.fold import fold, from_raw
from keras_vit.export.tflite.rewrites import REWRITES
from keras_vit.layers import LayerNorm
from keras_vit.layers.quantization import identity

# {model: {profile: {layer: "role=quantizer ...", in order}}}, as version 0.1 had them.
PINNED = json.loads((Path(__file__).parent / "specs.json").read_text())
QUANTIZED = [name for name, profile in PROFILES.items() if profile.quantized]
SMALL = {"patch_size": 4, "width": 32, "depth": 1, "num_heads": 2, "mlp_width": 48}


def multimodal():
    parts = {
        "image": modalities.Image(8, 4, depth=1),
        "text": modalities.Text(["a", "b"], 4, sentence=2),
        "action": modalities.Action(4, features=3),
    }
    return MultimodalViT(parts, width=32, depth=1, num_heads=2, num_classes=3, visual_weight=0.5)


MODELS = {
    "vit": lambda: ViT("Nano/4", image_size=8, num_classes=3, registers=1, **SMALL),
    "compact": lambda: ViT(
        "Nano/4", image_size=8, num_classes=3, stem="compact", pooling="mean", attention="relu", **SMALL
    ),
    "multimodal": multimodal,
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """(name, {profile: folded model})."""
    model = MODELS[request.param]()
    folded = fold(model, pixels=False)
    full = fold(model, pixels=False, rewrites=[name for name in REWRITES if name != "patch_bias"])
    vit = isinstance(model, ViT) and model.class_tokens
    return request.param, {name: full if vit and name == "int8_full" else folded for name in QUANTIZED}


def by_layer(spec):
    lines = {}
    for key, quantizer in spec.items():
        layer, _, role = key.rpartition(".")
        lines[layer] = f"{lines[layer]} {role}={quantizer}" if layer in lines else f"{role}={quantizer}"
    return lines


@pytest.mark.parametrize("profile", QUANTIZED)
def test_the_spec_is_pinned_and_its_order_too(case, profile):
    name, models = case
    found = by_layer(quantization_spec(models[profile], PROFILES[profile]))
    assert found == PINNED[name][profile]
    # Saved quantization-aware models have their quantizers in this order.
    assert list(found) == list(PINNED[name][profile])


def test_layers_call_each_role_that_they_declare_once(case):
    """A role that is declared and never called would be a quantizer without a range."""
    _, models = case
    for profile in ("int8_mixed", "int8_static", "int8_full"):
        model, called = models[profile], []
        layers = list(quantizable_layers(model))
        for name, layer in layers:
            layer.fake_quantize = functools.partial(_note, called, name)
        model(from_raw(dummy_inputs(model), model))
        for _, layer in layers:
            layer.fake_quantize = identity
        assert set(quantization_spec(model, PROFILES[profile])) <= set(called)
        assert len(called) == len(set(called))


def _note(called, name, role, tensor):
    called.append(f"{name}.{role}")
    return tensor


def test_a_part_that_only_training_has_gets_none():
    assert not [name for name, _ in quantizable_layers(multimodal()) if name.startswith("prediction")]


def test_a_modality_called_like_another_part_is_quantized():
    parts = {"prediction": modalities.Action(3, features=2), "header": modalities.Action(3, features=2)}
    model = MultimodalViT(parts, width=32, depth=1, num_heads=2, num_classes=3)
    spec = quantization_spec(fold(model), PROFILES["int4"])
    assert spec["prediction.projection.kernel"] == spec["header.projection.kernel"] == "weight4"
    assert spec["head.kernel"] == "weight"


def test_a_layer_declares_for_a_model_of_your_own_too():
    """No model of this package is needed: layers say what they need wherever they stand."""
    norm = LayerNorm()
    norm.build((None, 4))
    assert norm.quantization_roles("static") == {}
    roles = norm.quantization_roles("full")
    called = []
    norm.fake_quantize = lambda role, tensor: called.append(role) or tensor
    norm(keras.ops.convert_to_tensor(np.ones((1, 4), "float32")))
    assert list(roles) == called and set(roles.values()) == {"range"}
