"""What the manifest says about quantized files is what was done."""

import hashlib
import json

import keras
import numpy as np
import pytest

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.export import About, Serving, export, load_runner, quantize_aware
from keras_vit.export.examples import sample
from keras_vit.export.quantization.calibration import Calibration
from keras_vit.export.tflite.metadata import read_metadata
from keras_vit.export.verification.manifest import checked_file, entries

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
PROTECT = ["block_0.mlp", "head"]


def small():
    keras.utils.set_random_seed(0)
    model = ViT("Nano/4", image_size=8, num_classes=2, depth=2)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + random.normal(0, 0.1, weight.shape))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, manifest): static is calibrated and protected, int8 was (so to speak) trained."""
    folder = tmp_path_factory.mktemp("directory") / "out"
    model = small()
    export(
        model,
        folder,
        ["float16", "int8", "int8_static"],
        Calibration(IMAGES, images=20, seed=4, method="percentile"),
        trained={"int8": quantize_aware(model, "int8")},
        protect={"int8_static": PROTECT},
        serving=Serving("int8_static"),
        about=About(name="Noise", licence="CC0", source={"source": "noise"}),
    )
    return folder, json.loads((folder / "manifest.json").read_text())


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_how_each_file_was_made(made):
    _, manifest = made
    pixels = IMAGES[sample(50, 20, 4)]
    static = {
        "trained": False,
        "calibration": {
            "images": 20,
            "seed": 4,
            "method": "percentile",
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        },
        "protect": PROTECT,
    }
    int8 = {"trained": True, "calibration": None, "protect": []}
    artifacts, sources = by_name(manifest["artifacts"]), by_name(manifest["sources"])
    assert list(artifacts) == ["float16.tflite", "int8.tflite", "int8_static.tflite", "saved_model/1"]
    assert list(sources) == ["keras/float32.keras", "keras/int8.keras", "keras/int8_static.keras"]
    how = ("trained", "calibration", "protect")
    for name in ("int8_static.tflite", "saved_model/1"):
        assert {key: artifacts[name][key] for key in how} == static
        assert artifacts[name]["source"] == "keras/int8_static.keras"
    assert {key: sources["keras/int8_static.keras"][key] for key in how} == static
    assert {key: artifacts["int8.tflite"][key] for key in how} == int8
    assert not set(how) & (set(artifacts["float16.tflite"]) | set(sources["keras/float32.keras"]))
    assert artifacts["float16.tflite"]["source"] == "keras/float32.keras"
    assert manifest["data"] == {"source": "noise"}


def test_every_hash_and_size_is_right(made):
    folder, manifest = made
    names = [entry["name"] for entry in entries(manifest)]
    assert len(names) == len(set(names)) == 7
    for entry in entries(manifest):
        path = checked_file(folder, entry)
        if path.is_file():
            assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert entry["bytes"] == path.stat().st_size


def test_the_ranges_are_those_of_the_model(made):
    folder, manifest = made
    aware = keras.models.load_model(folder / "keras" / "int8_static.keras")
    assert list(manifest["ranges"]) == ["int8_static"]
    ranges = {key: tuple(value) for key, value in manifest["ranges"]["int8_static"].items()}
    assert ranges == aware.ranges
    assert ranges["patches.projection.input"] == (0.0, 255.0)
    assert "block_1.mlp.expand.input" in ranges
    assert not [key for key in ranges if key.startswith(("block_0.mlp", "head"))]


def test_a_protected_file_answers_like_its_keras_model_and_is_float_there(made):
    folder, _ = made
    keras_answers = load_runner(folder / "keras" / "int8_static.keras").predict(IMAGES)
    np.testing.assert_allclose(
        load_runner(folder / "int8_static.tflite").predict(IMAGES), keras_answers, atol=0.02
    )
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model(str(folder / "int8_static.tflite")).subgraphs[0]
    kinds = flatbuffer_utils.TensorType
    types = {tuple(t.shape): t.type for t in graph.tensors if t.shape is not None and len(t.shape) == 2}
    hidden = small().config.mlp_width
    expands = [t.type for t in graph.tensors if t.shape is not None and tuple(t.shape) == (hidden, 64)]
    assert sorted(expands) == sorted([kinds.FLOAT32, kinds.INT8]), "the MLP of block 0 and that of block 1"
    assert types[(2, 64)] == kinds.FLOAT32, "the head"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protect": {"int8": ["block_9"]}}, "there is no layer 'block_9' to protect"),
        ({"protect": {"int8": "head"}}, "protect must be a list of names such as block_0.mlp, not 'head'"),
        ({"protect": {"int4": ["head"]}}, "no layer of int4 can be protected: it is not exported"),
        ({"protect": {"float32": ["head"]}}, "unknown profile 'float32'"),
        (
            {"profiles": ["int8_full"], "calibration": IMAGES, "protect": {"int8_full": ["head"]}},
            "no layer of int8_full can be protected: all of it is int8",
        ),
        ({"profiles": ["int8_full"]}, "int8_full needs ranges"),
        (
            {"protect": {"int8": ["patches", "block_0", "block_1", "head"]}},
            "int8 quantizes nothing: protect less, or use float32",
        ),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(small(), tmp_path / "out", **{"profiles": ["int8"], **options})
    assert list(tmp_path.iterdir()) == []


def test_a_trained_model_is_not_protected_afterwards(tmp_path):
    model = small()
    with pytest.raises(InputError, match="it was trained, and is exported as it was"):
        export(
            model,
            tmp_path / "out",
            ["int8"],
            trained={"int8": quantize_aware(model, "int8")},
            protect={"int8": ["head"]},
        )


def test_each_file_says_what_it_is(made):
    folder, _ = made
    for profile in ("float16", "int8", "int8_static"):
        metadata = read_metadata((folder / f"{profile}.tflite").read_bytes())
        assert (metadata["name"], metadata["license"]) == ("Noise", "CC0")
        assert metadata["description"].startswith(f"Image classifier, {profile}: ")


def test_the_saved_model_is_the_profile_that_was_asked_for(tmp_path):
    model = small()
    export(model, tmp_path / "out", ["int8"], serving=Serving("int8", version=3), labels=["a", "b"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert by_name(manifest["artifacts"])["saved_model/3"]["profile"] == "int8"
    served = load_runner(tmp_path / "out" / "saved_model" / "3").predict(IMAGES)
    int8 = load_runner(tmp_path / "out" / "keras" / "int8.keras").predict(IMAGES)
    float32 = load_runner(tmp_path / "out" / "keras" / "float32.keras").predict(IMAGES)
    # A token whose value lies between two steps may be rounded to either: a few answers differ a little.
    assert np.abs(served - int8).mean() < 0.2 * np.abs(served - float32).mean()
