"""The table of a scenario: what each set of modalities gets right, against labels that are known."""

import inspect
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_vit.data.examples import Examples
from keras_vit.errors import InputError
from keras_vit.scenarios import SCENARIOS, running, scenario, two_stage
from keras_vit.scenarios.running import notes, scores, table
from keras_vit.training.recipes import multimodal_recipe


class Reader:
    """A model that answers with the image's number, or without one with the text's."""

    modalities = {"image": None, "text": None}  # noqa: RUF012

    def prepare(self, inputs):
        return inputs

    def __call__(self, inputs, training):
        return np.eye(3)[inputs["image" if "image" in inputs else "text"][:, 0]]


def examples():
    labels = np.array([0, 1, 2, 0], "int32")
    inputs = {"image": labels[:, None], "text": np.array([[0], [1], [0], [1]])}
    return Examples(inputs, labels, {"first": np.array([True, True, False, False])})


def test_scores_are_shares_of_right_answers():
    ours = SimpleNamespace(
        controls=lambda given: {"turned": Examples({"image": given.inputs["text"]}, given.labels)}
    )
    found = scores(Reader(), examples(), ours)
    assert found == {
        "image + text": {"all": 1.0, "first": 1.0},
        "image": {"all": 1.0, "first": 1.0},
        "text": {"all": 0.5, "first": 1.0},
        "turned": {"all": 0.5},
    }
    costs = {"parameters": 1000, "milliseconds": 1.25, "seconds": 3.0}
    everything = {"scores": found, "more": {"bag of words": 0.345}, **costs}
    assert table(everything).row_count == 4
    assert notes(everything) == [
        "bag of words: 34.5%",
        "1,000 parameters, 1.2 ms an example in Keras, 3 s of training",
    ]


def small_world(**changes):
    """A scenario of a few pictures and texts; its vision module is taught to give ones."""

    def make():
        return two_stage.make(seed=0, train_scenes=64, test_scenes=20)

    def pretrain(model, callbacks):
        image = model.modalities["image"]
        image.set_weights([np.full(weight.shape, 0.01) for weight in image.get_weights()])

    MODEL = {"width": 16, "depth": 1, "num_heads": 2, "visual_weight": 1.0, "modality_dropout": 0.5}
    TRAINING = {"epochs": 1, "batch_size": 32, "freeze": ["image"]}
    world = {
        "make": make,
        "pretrain": pretrain,
        "PRETRAINING": {"steps": 1},
        "MODEL": MODEL,
        "TRAINING": TRAINING,
    }
    return SimpleNamespace(**{**world, "ALONE": ("text",), **changes})


@pytest.mark.slow
def test_a_run_goes_from_a_pretrained_module_to_scores(monkeypatch, tmp_path):
    world = small_world(more=lambda model, data, scores, out: {"classes": len(data.labels)})
    monkeypatch.setattr(running, "scenario", lambda name: world)
    found = running.run("small", tmp_path, Console(quiet=True))
    assert list(found["scores"]) == ["image + text", "image", "text", "text, a model of its own"]
    assert found["more"] == {"classes": 6} and found["parameters"] > 1000 and found["milliseconds"] > 0
    trained = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    # Frozen, it is what it was taught; the text module is not what it was.
    for weight in trained.modalities["image"].get_weights():
        np.testing.assert_array_equal(weight, np.full(weight.shape, 0.01, "float32"))
    start = keras.models.load_model(tmp_path / "start.keras", compile=False)
    assert not np.allclose(start.modalities["text"].table, trained.modalities["text"].table)
    single = keras.models.load_model(tmp_path / "text-alone" / "model.keras", compile=False)
    assert list(single.modalities) == ["text"]
    # A second call finds all done, and the vision module need not learn again.
    monkeypatch.setattr(world, "pretrain", None)
    assert running.run("small", tmp_path, Console(quiet=True))["scores"] == found["scores"]


def test_a_recipe_refuses_to_freeze_what_is_not_there():
    data = small_world().make()
    with pytest.raises(InputError, match=r"part to freeze.*imaeg.*block_0"):
        multimodal_recipe(data, freeze=["imaeg"])
    with pytest.raises(InputError, match="list of modalities and blocks, not 2"):
        multimodal_recipe(data, freeze=2)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_its_own_source(name):
    # The commands on its RUN make its data again by that name.
    assert f'"{name}"' in inspect.getsource(scenario(name).make)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_what_the_commands_need(name):
    ours = scenario(name)
    assert callable(ours.make) and f"--scenario {name}" in ours.__doc__
    assert hasattr(ours, "run") or (ours.MODEL["width"] > 0 and ours.TRAINING["epochs"] > 0)
