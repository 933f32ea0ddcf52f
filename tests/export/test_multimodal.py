"""A multimodal model through fold, quantization, conversion and the proof that its copies agree."""

import io
import json
import re
from collections import Counter

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from random_weights import randomize
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_vit import MultimodalViT
from keras_vit.data.examples import Examples, MultimodalData
from keras_vit.errors import InputError
from keras_vit.export import export, fold, load_runner, quantize_aware, verify
from keras_vit.export.dummy_inputs import dummy_inputs
from keras_vit.export.quantization.calibration import Calibration
from keras_vit.export.quantization.sensitivity import choose_protected
from keras_vit.export.tflite.fold import from_raw
from keras_vit.modalities import Action, Audio, Image, Text, Vocabulary

WORDS = Vocabulary(["red", "blue", "circle", "square", "a"])
WITHOUT_DELEGATES = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
LABELS = ["no", "yes", "maybe"]


def model(fusion="single_stream", **changes):
    keras.utils.set_random_seed(0)
    modalities = {
        "image": Image(8, 4, depth=1),
        "text": Text(WORDS, length=5, sentence=2),
        "audio": Audio(320, 8000, patch_size=(2, 8), mels=16),
        "action": Action(3, features=2, padding=0.0),
    }
    options = {"width": 16, "depth": 2, "num_heads": 2, "num_classes": 3, "fusion": fusion, **changes}
    return randomize(MultimodalViT(modalities, **options))


@pytest.fixture(scope="module")
def whole():
    return model(visual_weight=0.5, modality_dropout=0.3)


@pytest.fixture(scope="module")
def directory(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "dist"
    profiles = ["float32", "float16", "int8", "int8_mixed", "int4", "int8_static", "int8_full"]
    export(whole, folder, profiles, dummy_inputs(whole, 64, 1), labels=LABELS)
    return folder


def examples(whole, count=24):
    """Examples of which some lack a modality, and have rubbish in its place."""
    inputs = dummy_inputs(whole, count, seed=2)
    inputs["present"][8:16, 1] = 0
    inputs["text"][8:12] = 3
    inputs["present"][12:, 0] = 0
    inputs["text"][4] = 0  # an empty text
    inputs["text"][5:8, 2:] = 0  # short ones
    return inputs


def answer(whole, inputs):
    return keras.ops.convert_to_numpy(keras.ops.softmax(whole(whole.prepare(inputs))))


@pytest.mark.parametrize("fusion", ["single_stream", "bottleneck"])
def test_folding_changes_no_answer(fusion):
    whole = model(fusion)
    folded = fold(whole)
    inputs = examples(whole)
    given = keras.ops.convert_to_numpy(folded(from_raw(inputs, folded)))
    expected = keras.ops.convert_to_numpy(whole(whole.prepare(inputs)))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1, "the answers differ between examples"
    lacks = {"scale": 1.0, "average": False, "value_bias": False, "key_bias": False}
    assert folded.attention_options == lacks and not folded.affine
    assert folded.modalities["text"].attention_options == lacks and not folded.modalities["text"].affine
    names = {variable.path for variable in folded.weights}
    for gone in ("block_0/norm_1/scale", "image/encoder_0/attention/key/bias", "text/decoder_0/norm_2/scale"):
        assert f"{whole.name}/{gone}" not in names
        assert f"{whole.name}/{gone}" in {variable.path for variable in whole.weights}


def test_every_copy_answers_alike_also_with_absent_modalities(whole, directory):
    inputs = examples(whole)
    for name, limit in (
        ("float32", 1e-5),
        ("float16", 5e-3),
        ("int8", 0.01),
        ("int8_mixed", 0.03),
        ("int4", 0.01),
        ("int8_static", 0.03),
        ("int8_full", 0.06),
    ):
        source = "float32" if name.startswith("float") else name
        expected = load_runner(directory / "keras" / f"{source}.keras").predict(inputs)
        given = load_runner(directory / f"{name}.tflite").predict(inputs)
        np.testing.assert_allclose(given, expected, atol=limit, err_msg=name)
        # A number that lies between two steps may be rounded to either, and then to others behind it.
        assert np.mean(np.abs(given - expected)) <= (2e-3 if name == "float16" else limit / 5)
    np.testing.assert_allclose(
        load_runner(directory / "saved_model").predict(inputs), answer(whole, inputs), atol=1e-5
    )


def test_what_stands_in_an_absent_input_changes_nothing_on_the_phone(whole, directory):
    inputs = examples(whole)
    other = {name: x.copy() for name, x in inputs.items()}
    other["text"][8:16] = 1
    for name in ("float32", "int8", "int8_static", "int8_full"):
        other["image"][12:] = 7 if name == "int8_full" else np.nan  # whose pixels are uint8
        runner = load_runner(directory / f"{name}.tflite")
        np.testing.assert_allclose(runner.predict(other), runner.predict(inputs), atol=1e-6)


def test_the_files_take_what_the_design_says(directory):
    runner = load_runner(directory / "int8_static.tflite")
    assert runner.inputs == {
        "image": ((8, 8, 3), "float32"),
        "text": ((5,), "int32"),
        "audio": ((320,), "float32"),
        "action": ((3, 2), "float32"),
        "present": ((4,), "float32"),
    }
    assert runner.operators["FULLY_CONNECTED"] > 20 and not any("FLEX" in name for name in runner.operators)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["inputs"]["text"] == {"shape": [5], "dtype": "int32"}
    assert (directory / "text.vocabulary.txt").read_text().splitlines()[2:] == list(WORDS.words)
    ranges = manifest["ranges"]["int8_static"]
    assert "block_0.attention.key.output" in ranges and "text.encoder_0.mlp.expand.input" in ranges
    assert not any(name.startswith("prediction") for name in ranges)


def test_products_are_int8_in_int8_static(directory):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(directory / "int8_static.tflite"))
    types = {d["index"]: d["dtype"] for d in interpreter.get_tensor_details()}
    kinds = {"BATCH_MATMUL": [], "FULLY_CONNECTED": []}
    for op in interpreter._get_ops_details():
        if op["op_name"] in kinds:
            kinds[op["op_name"]].append(types[op["outputs"][0]] == np.int8)
    # Float are the products of the visual sentence's queries, and those whose ranges are taken at run time.
    assert sum(kinds["BATCH_MATMUL"]) >= len(kinds["BATCH_MATMUL"]) - 3
    assert sum(kinds["FULLY_CONNECTED"]) >= 0.6 * len(kinds["FULLY_CONNECTED"])


@pytest.mark.parametrize("profile", ["int8", "int8_mixed", "int4", "int8_static", "int8_full"])
def test_the_table_of_words_is_int8_to_the_last_bit(profile, directory):
    plain, _ = load_runner(directory / "keras" / f"{profile}.keras").model.deploy()
    table = keras.ops.convert_to_numpy(plain.modalities["text"].table)
    interpreter = Interpreter(str(directory / f"{profile}.tflite"))
    [found] = [d for d in interpreter.get_tensor_details() if tuple(d["shape"]) == table.shape]
    scale, zero_point = found["quantization"]
    assert found["dtype"] == np.int8 and np.ptp(table) == pytest.approx(255 * scale, rel=0.02)
    stored = interpreter.get_tensor(found["index"]).astype("float32")
    np.testing.assert_allclose((stored - zero_point) * scale, table, atol=1e-5)


@pytest.mark.parametrize("fusion", ["single_stream", "bottleneck"])
def test_int8_full_leaves_only_masks_and_sounds_float(fusion, tmp_path):
    whole = model(fusion)
    export(whole, tmp_path / "dist", ["int8_full"], dummy_inputs(whole, 64, 1), labels=LABELS)
    path = tmp_path / "dist" / "int8_full.tflite"
    interpreter = Interpreter(str(path), experimental_op_resolver_type=WITHOUT_DELEGATES)
    tensors = {d["index"]: d for d in interpreter.get_tensor_details()}
    ends = {d["name"]: d for d in interpreter.get_input_details()}
    assert ends["serving_default_image:0"]["dtype"] == np.uint8
    assert ends["serving_default_image:0"]["quantization"] == (1.0, 0), "pixels go in as they are"
    assert ends["serving_default_audio:0"]["dtype"] == ends["serving_default_action:0"]["dtype"] == np.float32
    assert interpreter.get_output_details()[0]["dtype"] == np.uint8
    kinds, floats = Counter(), []
    for op in interpreter._get_ops_details():
        types = {tensors[i]["dtype"] for i in op["outputs"]}
        kinds[op["op_name"]] += np.int8 in types
        name = tensors[op["outputs"][0]]["name"]
        if (
            np.float32 in types
            and op["op_name"] != "CAST"
            and "audio/logmel" not in re.sub("_[0-9]", "", name)
        ):
            floats.append(op["op_name"])
    # `present` and masks, tracks and sounds before their projection and spectrogram, and the scores of the
    # visual sentence's queries, which are constants.
    masks = ["GATHER", "MUL", "MUL", "RESHAPE", "SELECT_V2", "SELECT_V2", "SUB", "SUB"]
    assert sorted(floats) == sorted([*masks, "BATCH_MATMUL", "DEQUANTIZE"])
    assert kinds["SOFTMAX"] >= 6 and kinds["GELU"] == 6 and kinds["BATCH_MATMUL"] == 11


def test_masks_of_int8_full_reach_below_every_score(directory):
    """The highest score plus the mask is the lowest number that softmax can be given."""
    interpreter = Interpreter(
        str(directory / "int8_full.tflite"), experimental_op_resolver_type=WITHOUT_DELEGATES
    )
    tensors = {d["index"]: d for d in interpreter.get_tensor_details()}

    def limits(index):
        scale, zero_point = tensors[index]["quantization"]
        return scale * (-128 - zero_point), scale * (127 - zero_point), scale

    operators = interpreter._get_ops_details()
    softmaxed = {op["inputs"][0] for op in operators if op["op_name"] == "SOFTMAX"}
    sums = [op for op in operators if op["op_name"] == "ADD" and op["outputs"][0] in softmaxed]
    masked = [op for op in sums if tensors[op["inputs"][0]]["dtype"] == np.int8]
    assert len(masked) >= 4
    for op in masked:
        (_, highest, _), (mask, _, _), (lowest, _, step) = map(limits, (*op["inputs"][:2], op["outputs"][0]))
        assert highest + mask <= lowest + step
        assert lowest < -8 and tensors[op["inputs"][1]]["dtype"] == np.int8


@pytest.mark.slow
def test_verify_compares_the_copies(whole, directory):
    inputs = examples(whole)
    truth = answer(whole, inputs).argmax(1)
    report = verify(directory, (inputs, truth), seconds=0.02)
    rows = {row["name"]: row for row in report["artifacts"]}
    assert all(row["error"] is None for row in rows.values()), rows
    assert rows["float32.tflite"]["top1"] == 1.0 and rows["float32.tflite"]["max_abs_diff"] < 1e-5
    assert rows["int8_static.tflite"]["agreement"] >= 0.9
    with pytest.raises(
        InputError, match=r"takes image, text, audio, action, present, but the data has image:"
    ):
        verify(directory, ({"image": inputs["image"]}, truth))
    with pytest.raises(InputError, match=r"'text' is \[24, 4\] for 24 labels, but .* \[N, 5\]"):
        verify(directory, ({**inputs, "text": inputs["text"][:, :4]}, truth))


def test_quantization_aware_training_of_two_modalities():
    """Small: the kernels of the text's module and of the trunk move, and so do trained ranges."""
    modalities = {"image": Image(8, 4), "text": Text(WORDS, length=5, sentence=2)}
    small = randomize(MultimodalViT(modalities, width=16, depth=1, num_heads=2, num_classes=3))
    aware = quantize_aware(small, "int8_static", dummy_inputs(small, 16, 1))
    inputs, ranges = small.prepare(dummy_inputs(small, 16, 3)), aware.ranges
    before = {v.path: keras.ops.convert_to_numpy(v) for v in aware.trainable_variables}
    aware.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = aware.fit(inputs, np.arange(16) % 3, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.02
    moved = [path for path, value in before.items() if not np.array_equal(value, _now(aware, path))]
    assert any("decoder_0" in path for path in moved) and any("block_0" in path for path in moved)
    key = "block_0.mlp.expand.input"
    assert aware.ranges.keys() == ranges.keys() and aware.ranges[key] != ranges[key]


@pytest.mark.slow
def test_a_quantization_aware_model_trains_and_ships_what_it_trained(whole, tmp_path):
    aware = quantize_aware(whole, "int8_static", dummy_inputs(whole, 64, 1))
    inputs = whole.prepare(dummy_inputs(whole, 64, 3))
    before = {v.path: keras.ops.convert_to_numpy(v) for v in aware.trainable_variables}
    aware.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = aware.fit(inputs, np.arange(64) % 3, epochs=6, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < history[0]
    moved = [path for path, value in before.items() if not np.array_equal(value, _now(aware, path))]
    assert any("decoder_0" in path for path in moved) and any("prediction" in path for path in moved)
    export(whole, tmp_path / "dist", ["int8_static"], labels=LABELS, trained={"int8_static": aware})
    given = examples(whole)
    np.testing.assert_allclose(
        load_runner(tmp_path / "dist" / "int8_static.tflite").predict(given), answer(aware, given), atol=0.03
    )


def _now(aware, path):
    return keras.ops.convert_to_numpy(next(v for v in aware.trainable_variables if v.path == path))


def test_calibration_takes_examples_in_many_forms(whole):
    raw = dummy_inputs(whole, 40, 5)
    labels = np.zeros(40, "int32")
    split = Examples(raw, labels)
    data = MultimodalData(split, split, ["a"], whole.modalities, "made", "0")
    noted = [
        quantize_aware(whole, "int8_static", given).calibration
        for given in (raw, split, data, Calibration(data, images=40))
    ]
    assert noted[0]["images"] == 40 and all(one == noted[0] for one in noted)
    assert quantize_aware(whole, "int8_static", Calibration(data, images=7)).calibration["images"] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("text"), r"calibration needs examples of image, text, .*, not of image, audio"),
        (
            lambda raw: raw.update(text=raw["text"][:, :3]),
            r"inputs 'text' must have shape \[N, 5\].*\[8, 3\]",
        ),
        (lambda raw: raw["audio"].fill(np.nan), r"inputs 'audio' contain NaN or infinity"),
        (lambda raw: raw.update(image=raw["image"] / 255), r"run from .* pixels run over 0..255"),
        (
            lambda raw: raw.update(action=raw["action"][:4]),
            r"4 examples of 'action' for 8 of the others",
        ),
    ],
)
def test_calibration_that_does_not_fit(whole, change, message):
    raw = dummy_inputs(whole, 8)
    change(raw)
    with pytest.raises(InputError, match=message):
        quantize_aware(whole, "int8_static", raw)


def test_what_a_multimodal_model_cannot_take(whole):
    with pytest.raises(InputError, match=r"not a MultimodalViT without a head \(num_classes=None\)"):
        fold(model(num_classes=None))
    with pytest.raises(InputError, match="a multimodal model takes examples as"):
        quantize_aware(whole, "int8_static", np.zeros((4, 8, 8, 3)))


def test_the_search_for_parts_to_protect_is_for_images_alone(whole):
    raw = dummy_inputs(whole, 8)
    data = (raw, np.zeros(8, "int32"))
    with pytest.raises(InputError, match="models of images alone, not for a multimodal one: name the parts"):
        choose_protected(whole, "int8_static", raw, data, max_drop=0.5)


def test_a_quantization_aware_model_goes_on_predicting_pictures(whole):
    """The loss of the visual sentence is part of its training too."""
    aware = quantize_aware(whole, "int8")
    aware.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = whole.prepare(dummy_inputs(whole, 4)), np.array([0, 1, 2, 0])
    logits = aware(x, training=True)
    both, labels_alone = (float(aware.compute_loss(x, y, logits, training=True)) for _ in range(2))
    assert labels_alone == pytest.approx(float(aware.loss(y, logits)), rel=1e-5)
    assert 0.05 < both - labels_alone < 1, "0.5 times one minus a cosine"


def test_the_saved_model_takes_picture_files_beside_the_other_inputs(whole, directory):
    """Also as its own warm-up requests ask for it; an absent picture is the empty string."""
    served = tf.saved_model.load(str(directory / "saved_model" / "1"))
    inputs = examples(whole, 24)
    inputs["image"] = np.round(inputs["image"])
    inputs["image"][12:] = 0  # these are absent
    files = [png(image.astype(np.uint8)) for image in inputs["image"][:12]] + [b""] * 12
    expected = answer(whole, inputs)
    others = {name: tf.constant(x) for name, x in inputs.items() if name != "image"}
    given = served.signatures["serve_bytes"](image_bytes=tf.constant(files), **others)
    np.testing.assert_allclose(given["probability"], expected, atol=1e-5)
    assert given["label"].numpy().tolist() == [LABELS[i].encode() for i in expected.argmax(1)]

    warm_up = directory / "saved_model" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    asked = {}
    for record in tf.data.TFRecordDataset(str(warm_up)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        inputs = {key: tf.constant(tf.make_ndarray(tensor)) for key, tensor in request.inputs.items()}
        asked[request.model_spec.signature_name] = inputs
        answers = served.signatures[request.model_spec.signature_name](**inputs)["probability"].numpy()
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert list(asked) == ["serving_default", "serve_bytes", "serve_bytes_safe"]
    assert [content[:4] for content in asked["serve_bytes"]["image_bytes"].numpy()] == [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG",
    ]


def test_the_serving_readme_lists_the_inputs(directory):
    text = (directory / "serving" / "README.md").read_text()
    assert '{"instances": [{"image": float32 [8, 8, 3], "text": int32 [5], "audio": float32 [320], ' in text
    assert '"present": float32 [4]}]}' in text
    assert '"serve_bytes"`, `image_bytes` takes the place of the pixels' in text


def png(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
