"""What a file answers is what the user's own loss function says of the model: of every head, in every copy.

The judge is Keras' loss, with `from_logits=True` on the model's logits and without on what the file answers.
"""

import json
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image as Picture
from scipy.special import expit, rel_entr

from keras_vit import MultimodalViT, ViT, ViTConfig, cli
from keras_vit.errors import InputError, Notice
from keras_vit.export import export, fold, quantize_aware, verify
from keras_vit.export.compiled_loss import notice_loss
from keras_vit.export.quantization.finetune import FloatModelLoss
from keras_vit.export.tf_serving.saved_model import write_saved_model
from keras_vit.export.tf_serving.serving_files import write_serving
from keras_vit.export.tflite.convert import float_file, quantized_file
from keras_vit.export.tflite.metadata import labels_for, read_metadata
from keras_vit.export.verification.runners import open_runner
from keras_vit.export.verification.scores import (
    BINARY,
    NUMBERS,
    SEVERAL,
    TOP1,
    checked_truth,
    decided,
    divergence,
)
from keras_vit.export.verification.verify import compare
from keras_vit.inspect import draw_explanation
from keras_vit.modalities import Action, Image
from keras_vit.training.training_model import TrainingModel

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
KINDS = np.arange(24) % 3  # dark, middling, bright
PIXELS = (PIXELS * ((KINDS + 1) / 3)[:, None, None, None]).astype("uint8")
COLOURS = PIXELS.mean(axis=(1, 2)) / 255
CONFIG = ViTConfig(patch_size=4, width=16, depth=1, num_heads=2, mlp_width=16)
BRIGHT = (COLOURS.mean(1, keepdims=True) > 0.3).astype("float32")
EACH = np.greater(COLOURS, np.median(COLOURS, axis=0)).astype("float32")
BCE, CCE, FOCAL = (
    getattr(keras.losses, f"{name}Crossentropy") for name in ("Binary", "Categorical", "BinaryFocal")
)


def trained(loss, labels, num_classes, activation="auto", inputs=None, make=None, **options):
    """A small model that a user compiled and fitted a little: its answers differ and are not certain."""
    keras.utils.set_random_seed(1)
    model = (
        make()
        if make
        else ViT(CONFIG, image_size=8, num_classes=num_classes, activation=activation, **options)
    )
    model.compile(keras.optimizers.Adam(0.02), loss=loss, run_eagerly=True)  # faster than tracing a graph
    model.fit(
        model.prepare({"image": PIXELS} if make else PIXELS), labels, epochs=6, batch_size=24, verbose=0
    )
    return model


def one_logit(**options):
    return trained(BCE(from_logits=True), BRIGHT, 1, **options)


def several():
    return trained(FOCAL(from_logits=True), EACH, 3, "sigmoid", distilled=True)


def numbers():
    return trained("mse", COLOURS.astype("float32") * 9 - 3, 3, None)


def multimodal():
    parts = {"image": Image(8, 4), "track": Action(steps=2, features=3)}
    return trained(
        BCE(from_logits=True),
        BRIGHT,
        1,
        make=lambda: MultimodalViT(parts, width=16, depth=1, num_heads=2, num_classes=1),
    )


HEADS = {
    "one logit": (one_logit, BCE, BRIGHT),
    "several labels": (several, FOCAL, EACH),
    "one of three": (lambda: trained(CCE(from_logits=True), np.eye(3)[KINDS], 3), CCE, np.eye(3)[KINDS]),
    "numbers": (numbers, None, None),
    "multimodal": (multimodal, BCE, BRIGHT),
}
PROFILES = {
    "one logit": ["int8_full"],  # for the others see `exported`
    "several labels": ["int8"],
    "one of three": [],  # for its files see all other tests
    "numbers": ["int8_full"],
    "multimodal": ["float32"],
}


def written(model, profile, folder):
    """A .tflite of `model`, made in this process, and the Keras model that it must answer like."""
    if profile.startswith("float"):
        made, content = model, float_file(fold(model), half=profile == "float16")
    else:
        made = quantize_aware(model, profile, PIXELS)
        plain, ranges = made.deploy()
        content = quantized_file(plain, ranges, made.spec, full=profile == "int8_full")
    path = folder / f"{profile}.tflite"
    path.write_bytes(content)
    return path, made


def agree(loss, labels, logits, answers, tolerance):
    """The user's loss must say of the answers what it says of the logits; without a loss they are equal."""
    if loss is None:
        np.testing.assert_allclose(answers, logits, atol=tolerance)
        return
    wanted, fresh = (
        float(loss(from_logits=True)(labels, logits)),
        float(loss(from_logits=True)(labels, 0 * logits)),
    )
    assert wanted < 0.9 * fresh and np.ptp(logits, axis=0).min() > 0.3, (
        "nothing was learned: it proves little"
    )
    assert float(loss(from_logits=False)(labels, answers)) == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("head", HEADS)
def test_every_copy_answers_what_the_users_loss_says(head, tmp_path):
    make, loss, labels = HEADS[head]
    model = make()
    raw = {"image": PIXELS.astype("float32")}
    if head == "multimodal":
        raw |= {"track": np.zeros((24, 2, 3), "float32"), "present": np.float32([[1, 0]] * 24)}
    given = raw if head == "multimodal" else PIXELS
    logits = np.asarray(model(model.prepare(given), training=False))
    model.save(tmp_path / "model.keras")
    copies = ["model.keras"]
    if head == "numbers":
        write_saved_model(model, tmp_path / "saved_model")
        copies.append("saved_model")
    for name in copies:
        runner = open_runner(tmp_path / name)
        assert runner.output == ("logits" if head == "numbers" else "probability")
        agree(loss, labels, logits, runner.predict(given), 1e-4)
    for profile in PROFILES[head]:
        path, made = written(model, profile, tmp_path)
        exact = np.asarray(made(made.prepare(given), training=False))
        # int8_full's answers have 256 steps: of a probability 1/256, of a logit a 256th of all that was seen.
        tolerance = {"int8_full": 0.02 if loss else 2.5 * np.ptp(exact) / 255}.get(profile, 2e-4)
        agree(loss, labels, exact, open_runner(path).predict(given), tolerance)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the model of one logit, the folder that it was exported to)."""
    model, folder = one_logit(), tmp_path_factory.mktemp("activation") / "dist"
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # its loss is what its activation says
        export(model, folder, ["float32"], labels=["fine", "defect"])
    return model, folder


def test_an_export_of_one_logit_says_so_everywhere(exported):
    model, folder = exported
    logits = np.asarray(model(model.prepare(PIXELS), training=False))
    for name in ("float32.tflite", "saved_model"):
        runner = open_runner(folder / name)
        assert runner.labels == ["fine", "defect"]
        agree(BCE, BRIGHT, logits, runner.predict(PIXELS), 1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["classes"], manifest["activation"]) == (1, "sigmoid")
    assert manifest["labels"] == (folder / "labels.txt").read_text().splitlines() == ["fine", "defect"]
    found = read_metadata((folder / "float32.tflite").read_bytes())
    answer = found["subgraph_metadata"][0]["output_tensor_metadata"][0]
    assert found["labels"] == ["defect"], "a name for each number, as MediaPipe wants it"
    assert answer["description"] == "Probability of each class on its own: they do not sum to one."
    assert "the more probable of the two" in (folder / "serving" / "README.md").read_text()


def test_its_server_names_the_more_probable_label(exported):
    model, folder = exported
    p = expit(np.asarray(model(model.prepare(PIXELS), training=False)))[:, 0]
    served = tf.saved_model.load(str(folder / "saved_model" / "1"))
    files = [tf.io.encode_png(picture).numpy() for picture in PIXELS]
    for answer in (
        served.signatures["serving_default"](image=tf.constant(PIXELS, tf.float32)),
        served.signatures["serve_bytes"](image_bytes=tf.constant(files)),
    ):
        np.testing.assert_allclose(answer["probability"][:, 0], p, atol=1e-5)
        best = np.where(p > 0.5, "defect", "fine")
        assert set(best) == {"fine", "defect"}
        assert [label.decode() for label in answer["label"].numpy()] == best.tolist()
        np.testing.assert_allclose(
            answer["top_probabilities"], np.sort(np.stack([p, 1 - p], 1))[:, ::-1], atol=1e-5
        )
        assert answer["top_labels"].numpy()[0].tolist() == (
            [b"defect", b"fine"] if p[0] > 0.5 else [b"fine", b"defect"]
        )


def test_predict_and_explain_print_both_labels(exported, tmp_path, capsys, monkeypatch):
    model, folder = exported
    Picture.fromarray(PIXELS[0]).save(tmp_path / "dark.png")
    (p,) = expit(np.asarray(model(model.prepare(PIXELS[:1]), training=False)))[0]
    words = ["keras-vit", "predict", str(folder / "float32.tflite"), str(tmp_path / "dark.png"), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    (found,) = json.loads(capsys.readouterr().out)
    expected = sorted([("fine", 1 - p), ("defect", p)], key=lambda pair: -pair[1])
    assert [row["label"] for row in found["predictions"]] == [name for name, _ in expected]
    shares = [row["probability"] for row in found["predictions"]]
    np.testing.assert_allclose(shares, [share for _, share in expected], atol=1e-5)
    drawn = draw_explanation(model, tmp_path / "dark.png", tmp_path / "why.png", ["fine", "defect"])
    assert drawn.output == "probability" and [name for name, _ in drawn] == [name for name, _ in expected]
    np.testing.assert_allclose([share for _, share in drawn], [share for _, share in expected], atol=1e-5)


def only_float32(folder, out, **changes):
    """`out` with the float32.tflite of `folder` alone, compared with itself.

    The Keras model and the SavedModel would each need TensorFlow in a process of its own.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    (entry,) = [entry for entry in manifest["artifacts"] if entry["name"] == "float32.tflite"]
    entry["source"] = "float32.tflite"
    manifest |= {"sources": [entry], "artifacts": [entry], **changes}
    out.mkdir(exist_ok=True)
    (out / "float32.tflite").write_bytes((folder / "float32.tflite").read_bytes())
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_verify_counts_what_keras_counts(exported, tmp_path):
    model, folder = exported
    only_float32(folder, tmp_path)
    labels = BRIGHT.copy()
    labels[3:6] = 1 - labels[3:6]  # so that not all is right
    report = verify(tmp_path, (PIXELS, labels), seconds=0.01)
    row = report["artifacts"][-1]
    judge = keras.metrics.BinaryAccuracy()
    judge.update_state(labels, expit(np.asarray(model(model.prepare(PIXELS), training=False))))
    assert row["error"] is None and 0.3 < row["top1"] < 1
    assert row["top1"] == pytest.approx(float(judge.result()), abs=1e-6)
    assert (report["activation"], report["measure"]) == ("sigmoid", BINARY)
    assert row["agreement"] == 1 and row["kl"] == row["max_abs_diff"] == 0
    assert {sample["label"] for sample in report["samples"]} == {"fine", "defect"}
    for sample in report["samples"]:
        assert 0.5 <= sample["answers"]["float32.tflite"]["probability"] <= 1, "of what was decided"


@pytest.mark.parametrize(
    "labels, folders",
    [
        (["ok", "defect"], ("ok", "defect")),  # folders are sorted: "defect" comes first
        (["not defect", "defect"], ("fine", "defect")),
        (["not defect", "defect"], ("not defect", "defect")),
        (["defect", "ok"], ("defect", "ok")),
    ],
)
def test_evaluate_knows_the_labels_of_one_logit_by_their_names(
    exported, labels, folders, tmp_path, monkeypatch
):
    model, folder = exported
    out = only_float32(folder, tmp_path / "dist", labels=labels)
    for i, (picture, label) in enumerate(zip(PIXELS, BRIGHT.ravel(), strict=True)):
        for part in ("train", "test"):
            file = tmp_path / "data" / part / folders[int(label)] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(picture).save(file)
    words = ["keras-vit", "evaluate", str(out), str(tmp_path / "data"), "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    row = json.loads((out / "report.json").read_text())["artifacts"][-1]
    judge = keras.metrics.BinaryAccuracy()
    judge.update_state(BRIGHT, expit(np.asarray(model(model.prepare(PIXELS), training=False))))
    assert row["top1"] == pytest.approx(float(judge.result()), abs=1e-6) and row["top1"] > 0.6


def test_scores_are_those_of_keras_and_scipy():
    random = np.random.default_rng(3)
    p, q = random.uniform(0.01, 0.99, (2, 40, 3))
    truth = random.integers(0, 2, (40, 3))
    several = compare(q, truth, p, p, SEVERAL, "sigmoid")
    judge = keras.metrics.BinaryAccuracy()
    judge.update_state(truth, q)
    assert several["top1"] == pytest.approx(float(judge.result()))
    assert several["agreement"] == several["agreement_float"] == np.mean((p > 0.5) == (q > 0.5)) < 1
    assert several["kl"] == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(1).mean())
    one = compare(q[:, :1], truth[:, 0], p[:, :1], None, BINARY, "sigmoid")
    assert one["top1"] == np.mean((q[:, 0] > 0.5) == truth[:, 0]) not in (0, 1)
    shares = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    np.testing.assert_allclose(divergence(*shares, "softmax"), rel_entr(*shares).sum(1))
    plain = compare(q, truth.astype(float), p, p, NUMBERS, None)
    assert set(plain) == {"max_abs_diff", "mean_abs_diff"}
    assert decided(np.full((1, 1), 0.5), BINARY).tolist() == [0], "as Keras: above the threshold"


@pytest.mark.parametrize(
    ("labels", "num_classes", "activation", "measure", "expected"),
    [
        ([2, 0], 3, "softmax", TOP1, [2, 0]),
        ([[0, 0, 1], [1, 0, 0]], 3, "softmax", TOP1, [2, 0]),
        ([[0.1, 0.2, 0.7], [1, 0, 0]], 3, "softmax", TOP1, [2, 0]),
        ([2, 0], 3, "sigmoid", TOP1, [2, 0]),
        ([[0, 1, 1], [0, 0, 0]], 3, "sigmoid", SEVERAL, [[0, 1, 1], [0, 0, 0]]),
        ([[1.0], [0.0]], 1, "sigmoid", BINARY, [1, 0]),
        ([True, False], 1, "sigmoid", BINARY, [1, 0]),
        ([[0, 1], [1, 0]], 1, "sigmoid", BINARY, [1, 0]),
        ([0.5, -3], 1, None, NUMBERS, [[0.5], [-3]]),
        ([[0.5, 1], [-3, 2]], 2, None, NUMBERS, [[0.5, 1], [-3, 2]]),
        ([1, 0], 2, None, TOP1, [1, 0]),
    ],
)
def test_labels_in_each_form_that_keras_has(labels, num_classes, activation, measure, expected):
    found, how = checked_truth(labels, 2, "image", num_classes, activation)
    assert how == measure and found.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "num_classes", "activation", "message"),
    [
        (
            [[0, 1, 1], [0, 0, 1]],
            3,
            "softmax",
            "name no class or several, and the model, whose activation is",
        ),
        ([[0, 2, 1], [0, 0, 1]], 3, "sigmoid", "labels for each class must be 0 or 1"),
        ([0, 2], 1, "sigmoid", r"run from 0 to 2, but the exported model knows 2 classes"),
        ([0.5, 1], 3, "softmax", "one integer label for each"),
        ([[1, 2], [3, 4]], 3, None, r"activation=None is compared with numbers \[2, 3\]"),
        (["a", "b"], 3, "softmax", "one integer label for each"),
    ],
)
def test_labels_that_do_not_fit_the_activation(labels, num_classes, activation, message):
    with pytest.raises(InputError, match=message):
        checked_truth(labels, 2, "image", num_classes, activation)


def test_names_of_the_labels():
    one, regression = (
        ViT(CONFIG, image_size=8, num_classes=1),
        ViT(CONFIG, image_size=8, num_classes=1, activation=None),
    )
    assert labels_for(one, ["defect"]) == ["not defect", "defect"]
    assert labels_for(one, ["fine", "defect"]) == ["fine", "defect"]
    assert labels_for(one) == ["0", "1"]
    assert labels_for(regression) == ["0"] and labels_for(regression, ["mm"]) == ["mm"]
    with pytest.raises(
        InputError, match="3 labels for one class: give its name, or those of the labels 0 and 1"
    ):
        labels_for(one, ["a", "b", "c"])
    with pytest.raises(InputError, match=r"2 labels for one class: give its name\.$"):
        labels_for(regression, ["a", "b"])


def notices(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notice_loss(model)
    return [str(warning.message) for warning in caught]


def test_a_loss_that_means_something_else_gets_a_notice_with_a_way_out():
    model = ViT(CONFIG, image_size=8, num_classes=3)
    assert notices(model) == [], "not compiled: nothing is known"
    fine = [
        CCE(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "hinge",
        lambda y, p: p,
    ]
    for loss in fine:
        model.compile(loss=loss)
        assert notices(model) == []
    for loss in (BCE(from_logits=True), [FOCAL(from_logits=True)]):
        model.compile(loss=loss)
        (said,) = notices(model)
        assert "goes with activation='sigmoid', and has activation='softmax'" in said
        assert "set model.activation = 'sigmoid'" in said
    model.activation = "sigmoid"
    assert notices(model) == [], "the way out works"
    model.compile(loss="mse")
    assert "mean_squared_error, which goes with activation=None" in notices(model)[0]
    model.activation = "softmax"
    model.compile(loss="categorical_crossentropy")
    assert "of probabilities, but it gives logits" in notices(model)[0]
    one = ViT(CONFIG, image_size=8, num_classes=1)
    one.compile(loss=CCE(from_logits=True))
    assert "train with a BinaryCrossentropy, or with num_classes=2" in notices(one)[0]
    with pytest.raises(InputError, match=r"softmax' with num_classes=1 is always 1\.0"):
        one.activation = "softmax"


def test_a_layer_around_a_vit_is_refused_with_a_way_out_that_works():
    inner = ViT(CONFIG, image_size=8, num_classes=3, name="mine")
    inner.head.kernel.assign(RANDOM.normal(size=inner.head.kernel.shape))
    pictures = keras.Input((8, 8, 3))
    model = keras.Model(pictures, keras.layers.Activation("sigmoid")(inner(pictures)))
    message = (
        r"not Functional with layers .*Activation.*: export the ViT inside it, model.get_layer\('mine'\)"
    )
    with pytest.raises(InputError, match=message):
        fold(model)
    way_out = model.get_layer("mine")
    way_out.activation = "sigmoid"
    x = inner.prepare(PIXELS)
    folded = fold(way_out)
    assert folded.activation == "sigmoid"
    np.testing.assert_allclose(
        expit(np.asarray(folded(PIXELS.astype("float32")))), np.asarray(model(x)), atol=1e-5
    )


def test_quantization_aware_training_learns_from_the_users_loss_and_a_sigmoid_teacher():
    teacher = several()
    student = quantize_aware(teacher, "int8")
    assert student.activation == "sigmoid"
    head = student.model.head.kernel
    head.assign(head + RANDOM.normal(0, 0.5, head.shape))  # so that there is something to learn
    x = teacher.prepare(PIXELS)
    s, t = (np.asarray(model(x, training=False), "float64") for model in (student, teacher))
    training = TrainingModel(student, FloatModelLoss(teacher, 2.0))
    training.compile("sgd", BCE(from_logits=True))
    found = float(training.compute_loss(x=x, y=EACH, y_pred=tf.constant(s, tf.float32), training=True))
    p, q = expit(t), expit(s)
    bce = -(EACH * np.log(q) + (1 - EACH) * np.log(1 - q)).mean()
    kl = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
    assert kl > 0.05 and found == pytest.approx(bce + 2.0 * kl, rel=1e-3)


def test_a_trained_model_of_another_activation_is_refused(tmp_path):
    model = ViT(CONFIG, image_size=8, num_classes=3)
    aware = quantize_aware(model, "int8")
    model.activation = "sigmoid"
    with pytest.raises(
        InputError, match="a trained model has activation='softmax' and the float model 'sigmoid'"
    ):
        export(model, tmp_path / "dist", ["int8"], trained={"int8": aware})
    assert not (tmp_path / "dist").exists()


def test_a_server_of_several_labels_or_of_numbers_says_what_it_answers(tmp_path):
    for activation, said in (("sigmoid", "they do not sum to"), (None, "`logits`, the numbers")):
        model = ViT(CONFIG, image_size=8, num_classes=3, activation=activation)
        folder = tmp_path / str(activation)
        (folder / "saved_model" / "1").mkdir(parents=True)
        (folder / "saved_model" / "1" / "saved_model.pb").touch()
        write_serving(folder, model)
        readme = (folder / "serving" / "README.md").read_text()
        assert said in readme
        assert ('outputs["logits"]' in readme) == (activation is None)
