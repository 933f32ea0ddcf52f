"""The second output `rollout` of exported files, in the real LiteRT, against `attention_rollout` in Keras."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from bright_thirds import PREPROCESSING
from random_weights import randomize

from keras_vit import MultimodalViT, ViT, modalities
from keras_vit.errors import InputError
from keras_vit.export import export, load_runner, quantize_aware
from keras_vit.export.tflite.convert import float_file
from keras_vit.export.tflite.fold import fold
from keras_vit.export.tflite.metadata import read_metadata
from keras_vit.inspect import attention_rollout

SMALL = {"patch_size": (4, 2), "width": 12, "depth": 3, "num_heads": 3, "mlp_width": 20}
SIZE = (8, 6)  # 2 x 3 patches


def small(**options):
    return randomize(ViT("Nano/2", SIZE, 5, preprocessing=PREPROCESSING, **{**SMALL, **options}))


def pixels(count):
    return np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3)).astype("float32")


def answers(path, images):
    """(probability [N, num_classes], rollout [N, rows, columns])."""
    run = Interpreter(str(path)).get_signature_runner("serving_default")
    outputs = [run(image=image[None]) for image in images]
    return tuple(np.concatenate([output[name] for output in outputs]) for name in ("probability", "rollout"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distilled": True, "registers": 2},
        {"pooling": "mean", "layer_scale": 0.5},
        {"pooling": "attention", "registers": 1},
        {"attention": "relu"},
        {"merge": (1, 2), "pooling": "mean"},
    ],
)
def test_a_float_file_gives_the_rollout_of_the_model_it_came_from(options, tmp_path):
    model, images = small(**options), pixels(3)
    (tmp_path / "model.tflite").write_bytes(float_file(fold(model), rollout=True))
    found = answers(tmp_path / "model.tflite", images)[1]
    expected = attention_rollout(model, np.asarray(model.prepare(images)))
    assert found.shape == (3, 2, 3) and np.ptp(expected) > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert load_runner(tmp_path / "model.tflite").delegated == 1


def test_quantized_files_carry_it_but_for_int8_full(tmp_path):
    model, images = small(), pixels(20)
    profiles = ["float32", "int8", "int4", "int8_static", "int8_full"]
    aware = {name: quantize_aware(model, name, images) for name in profiles[1:]}
    export(model, tmp_path / "out", profiles, trained=aware, rollout=True)
    plain = tmp_path / "plain"
    export(model, plain, profiles, trained=aware)
    for name in profiles:
        path = tmp_path / "out" / f"{name}.tflite"
        outputs = Interpreter(str(path)).get_signature_list()["serving_default"]["outputs"]
        assert read_metadata(path.read_bytes())["labels"] == ["0", "1", "2", "3", "4"]
        if name == "int8_full":
            assert outputs == ["probability"]
            continue
        assert sorted(outputs) == ["probability", "rollout"]
        first, second = Interpreter(str(path)).get_output_details()  # MediaPipe goes by this order
        assert tuple(first["shape"]) == (1, 5) and tuple(second["shape"]) == (1, 2, 3)
        probability, rollout = answers(path, images)
        # The output changes no answer.
        np.testing.assert_allclose(
            probability, load_runner(plain / f"{name}.tflite").predict(images), atol=1e-6
        )
        np.testing.assert_allclose(load_runner(path).predict(images), probability, atol=1e-6)
        source = aware.get(name, model)
        expected = attention_rollout(source, np.asarray(source.prepare(images)))
        # In Keras the weights are rounded where they meet the values, in the file the output is not.
        np.testing.assert_allclose(rollout, expected, atol=4e-3)
        assert np.ptp(expected, axis=0).max() > 0.04


def test_it_is_for_a_vit_alone(tmp_path):
    parts = {"image": modalities.Image(8, 4), "text": modalities.Text(9, length=4)}
    model = MultimodalViT(parts, width=12, depth=1, num_heads=2, num_classes=2)
    with pytest.raises(InputError, match="rollout output is for a ViT alone"):
        export(model, tmp_path / "out", rollout=True)
    assert not (tmp_path / "out").exists()
