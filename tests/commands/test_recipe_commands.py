"""`keras-vit recipes`, `probe`, `find-rate`, `pretrain` and `train --teacher` as a person types them."""

import json

import command_line
import numpy as np
import pytest
from PIL import Image

from keras_vit import ViT
from keras_vit.training.recipes import RECIPES


@pytest.fixture
def run(capsys):
    """A function: (exit code, standard output, lines of standard error) of `keras-vit WORDS`."""

    def call(*words):
        code, out, err = command_line.run(capsys, *words)
        return code, out, err.splitlines()

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A ViT for the digits, with random features; its labels are beside it."""
    folder = tmp_path_factory.mktemp("model")
    vit = ViT("Nano/4", image_size=8, num_classes=10, pooling="mean")
    random = np.random.default_rng(0)
    vit.set_weights([w + random.normal(size=w.shape, scale=0.1) for w in vit.get_weights()])
    vit.save(folder / "model.keras")
    (folder / "labels.txt").write_text("".join(f"{i}\n" for i in range(10)))
    return folder / "model.keras"


def test_recipes_are_printed(run):
    code, out, _ = run("recipes", "small")
    assert code == 0
    rows = dict(line.strip("│ ").split("│") for line in out.splitlines() if line.startswith("│"))
    rows = {key.strip(): value.strip() for key, value in rows.items()}
    assert rows == {
        key: "32x32" if key == "image_size" else str(value)
        for key, value in RECIPES["small"].to_dict().items()
    }
    assert run("recipes", "smal")[2] == [
        "error: unknown recipe 'smal': the known ones are thumbnails, small, compact, standard, pretraining. "
        "Did you mean 'small'?"
    ]


def test_probe_scores_features(run, model):
    code, out, _ = run("probe", model, "digits", "--json")
    found = json.loads(out)
    assert code == 0 and (found["width"], found["train"], found["test"]) == (64, 1438, 359)
    assert found["linear"] > 0.8 and found["knn"] > 0.8, "random features of digits are far from useless"
    code, out, _ = run("probe", model, "digits", "--method", "knn", "--k", 3)
    assert code == 0 and "3 nearest neighbours" in out and "linear" not in out
    assert "unknown probe 'tree'" in run("probe", model, "digits", "--method", "tree")[2][-1]
    assert "no.keras does not exist: probe takes a RUN" in run("probe", "no.keras", "digits")[2][-1]


@pytest.mark.slow
def test_find_rate_draws_and_says_a_rate(run, tmp_path):
    options = ["--variant", "Nano/4", "--augment", "none", "--steps", 30, "--out", tmp_path / "lr.png"]
    code, out, said = run("find-rate", "digits", *options)
    assert code == 0, said
    assert 1e-6 < float(out.removeprefix("--learning-rate ")) < 1
    assert Image.open(tmp_path / "lr.png").size[0] > 300
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits", "--distill", "soft"], "say how to learn from a --teacher: give one."),
        (["train", "digits", "--teacher", "nowhere.keras"], "nowhere.keras does not exist: --teacher takes"),
        (["pretrain", "digits", "--ratio", "0"], "ratio must be between 0 and 1, e.g. 0.6, not 0.0."),
        (["pretrain", "digits", "--mode", "bert"], "unknown mode 'bert': the known ones are simmim, mae."),
    ],
)
def test_bad_input_is_a_line_and_leaves_nothing(run, tmp_path, words, message):
    code, _, said = run(*words, "--out", tmp_path / "run")
    assert code == 2 and message in said[-1] and said[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(run, model, tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / label / f"{i}.png")
    code, _, said = run("train", tmp_path / "data", "--out", tmp_path / "run", "--teacher", model)
    assert code == 2 and "has 10 classes, and the data 2: a teacher must be trained on the same" in said[-1]
