"""Distillation: the losses of the paper in NumPy, what the teacher sees, and who may teach."""

import keras
import numpy as np
import pytest
from scipy.special import expit, rel_entr
from thirds_data import silent, thirds, tiny_recipe, vit

from keras_vit.data.decoding import fit
from keras_vit.errors import InputError
from keras_vit.training import recipe, train
from keras_vit.training.methods.distillation import Teacher, TeacherLoss, as_seen_by, load_teacher
from keras_vit.training.training_model import TrainingModel


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def cross_entropy(logits, target):
    return -np.sum(target * np.log(softmax(logits)), -1).mean()


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_that_of_the_paper(kind, token):
    student, teacher, weight, temperature = vit(distilled=token), vit(seed=1), 0.3, 2.0
    x = np.random.default_rng(2).normal(size=(5, 12, 8, 3)).astype("float32")
    y = np.eye(3, dtype="float32")[[0, 1, 2, 1, 0]]
    plain = np.asarray(student(x))
    training = TrainingModel(student, TeacherLoss(student, teacher, kind, weight, temperature))
    training.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), ["accuracy"])

    answer = student(x, training=True)
    ours, theirs = (np.asarray(answer[:, i]) if token else plain for i in range(2))
    wanted = np.asarray(teacher(x))
    if kind == "hard":
        taught = cross_entropy(theirs, np.eye(3)[wanted.argmax(-1)])
    else:
        p, q = softmax(wanted / temperature), softmax(theirs / temperature)
        taught = temperature**2 * np.sum(p * np.log(p / q), -1).mean()
    assert taught > 0.1 and abs(taught - cross_entropy(ours, y)) > 0.05, "both parts are to be told apart"
    expected = (1 - weight) * cross_entropy(ours, y) + weight * taught
    assert float(training.compute_loss(x, y, answer, training=True)) == pytest.approx(expected, rel=1e-5)

    if token:
        np.testing.assert_allclose((ours + theirs) / 2, plain, atol=1e-6)
        assert np.abs(ours - theirs).max() > 0.1, "two heads"
    # In use, and where it is evaluated, it knows of no teacher.
    np.testing.assert_allclose(np.asarray(student(x)), plain, atol=1e-6)
    held_out = float(training.compute_loss(x, y, student(x), training=False))
    assert held_out == pytest.approx(cross_entropy(plain, y), rel=1e-5)
    found = training.compute_metrics(x, y, answer)["accuracy"]
    assert float(found) == pytest.approx(np.mean(plain.argmax(-1) == y.argmax(-1)))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_sigmoid_s_classes_are_taught_one_by_one(kind):
    student, teacher = vit(), vit(seed=1)
    student.activation = teacher.activation = "sigmoid"
    x = np.random.default_rng(2).normal(size=(5, 12, 8, 3)).astype("float32")
    y = np.float32([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]])
    training = TrainingModel(student, TeacherLoss(student, teacher, kind, weight=0.3, temperature=2.0))
    training.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    s, t = (np.asarray(model(x), "float64") for model in (student, teacher))

    def binary(p, q):
        return -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()

    if kind == "hard":
        assert {0, 1} == set((t > 0).astype(int).ravel())
        taught = binary(t > 0, expit(s))
    else:
        p, q = expit(t / 2), expit(s / 2)
        taught = 4 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
    expected = 0.7 * binary(y, expit(s)) + 0.3 * taught
    found = float(training.compute_loss(x, y, student(x, training=True), training=True))
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(
        InputError, match="activation='softmax' and the student with 'sigmoid': both must mean"
    ):
        TeacherLoss(student, vit(seed=1), kind)


def test_an_example_of_weight_0_teaches_nothing():
    student, teacher = vit(), vit(seed=1)
    training = TrainingModel(student, TeacherLoss(student, teacher, "soft", weight=1.0))
    training.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(2).normal(size=(4, 12, 8, 3)).astype("float32")
    y = np.eye(3, dtype="float32")[[0, 1, 2, 1]]
    first = training.compute_loss(x[:2], y[:2], student(x[:2]))
    filled = training.compute_loss(x, y, student(x), np.float32([2, 2, 0, 0]))
    assert float(filled) == pytest.approx(float(first), rel=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (24, 24)])  # scaled down, only cropped, scaled up
def test_the_teacher_sees_the_picture_in_its_own_size_and_scale(size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    student = vit(preprocessing={"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]})
    teacher = vit(image_size=size, preprocessing={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]})
    seen = np.asarray(as_seen_by(teacher, student)(student.prepare(pixels)))
    expected = np.asarray(teacher.prepare(np.stack([fit(picture, size) for picture in pixels])))
    np.testing.assert_allclose(seen, expected, atol=2 / 255 / 0.2)  # files are rounded, twice
    for each in (False, True), (True, False), (True, True):
        ours, theirs = (
            m.rebuilt(include_preprocessing=it) for m, it in zip((student, teacher), each, strict=True)
        )
        same = np.asarray(theirs.normalised(as_seen_by(theirs, ours)(ours.prepare(pixels))))
        np.testing.assert_allclose(same, seen, atol=1e-4)


def test_a_teacher_of_colours_teaches_grey():
    grey = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 1), dtype=np.uint8)
    student, teacher = vit().rebuilt(channels=1), vit()
    seen = np.asarray(as_seen_by(teacher, student)(student.prepare(grey)))
    np.testing.assert_allclose(seen, teacher.prepare(np.repeat(grey, 3, axis=3)), atol=1e-6)
    with pytest.raises(InputError, match=r"of 1 channels .* of 3: use teacher.rebuilt\(channels=3\)"):
        as_seen_by(student, teacher)
    assert (
        as_seen_by(student.rebuilt(channels=3), teacher)(teacher.prepare(np.repeat(grey, 3, 3))).shape[3] == 3
    )


def test_a_run_learns_from_its_teacher_and_goes_on_with_no_other(tmp_path):
    teacher = Teacher(vit(seed=1), "somewhere")
    before = teacher.digest
    chosen = tiny_recipe(pooling="cls", distill="hard", distillation_token=True, epochs=1)
    run = tmp_path / "run"
    train(thirds(), run, chosen, silent(), teacher=teacher)
    assert teacher.digest == before, "the teacher learns nothing"
    saved = keras.models.load_model(run / "model.keras")
    assert saved.config.distilled and len(saved.weights) == len(vit(distilled=True).weights)
    assert np.abs(np.asarray(saved.head.kernel - saved.head_distillation.kernel)).max() > 1e-3
    with pytest.raises(InputError, match=r"with the teacher somewhere, and elsewhere has other weights"):
        train(thirds(), run, chosen, silent(), teacher=Teacher(vit(seed=2), "elsewhere"))
    with pytest.raises(InputError, match="distillation takes both"):
        train(thirds(), run, chosen, silent())
    with pytest.raises(InputError, match="distillation takes both"):
        train(thirds(), run, tiny_recipe(), silent(), teacher=teacher)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    vit().save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    assert load_teacher(tmp_path / "model.keras", ["a", "b", "c"]).source == str(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"has 3 classes, and the data 2: a teacher must be trained on"):
        load_teacher(tmp_path / "model.keras", ["a", "b"])
    with pytest.raises(InputError, match=r"has the class 'b' where the data has 'x'"):
        load_teacher(tmp_path / "model.keras", ["a", "x", "c"])
    with pytest.raises(InputError, match=r"nowhere.keras does not exist: --teacher takes a RUN"):
        load_teacher(tmp_path / "nowhere.keras", ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": "both"}, "unknown kind of distillation 'both'"),
        ({"distill": "soft", "distill_weight": 1.5}, "distill_weight must be between 0 and 1"),
        ({"distill": "soft", "temperature": 0}, "temperature must be at least"),
        ({"distillation_token": True}, "a distillation token learns from a teacher"),
        ({"distill": "hard", "distillation_token": True, "pooling": "mean"}, "use pooling='cls'"),
    ],
)
def test_recipes_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        recipe("standard", **options)
