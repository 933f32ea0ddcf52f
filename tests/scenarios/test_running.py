"""The table of a scenario: what each set of modalities gets right, against labels that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_vit.scenarios import SCENARIOS, scenario
from keras_vit.scenarios.running import scores, table
from keras_vit.training.examples import Examples


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
    shown = table({"scores": found, "parameters": 1000, "milliseconds": 1.25, "seconds": 3.0})
    assert shown.row_count == 4 and "1,000 parameters, 1.2 ms" in shown.caption


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_what_the_commands_need(name):
    ours = scenario(name)
    assert callable(ours.make) and f"--scenario {name}" in ours.__doc__
    assert hasattr(ours, "run") or (ours.MODEL["width"] > 0 and ours.TRAINING["epochs"] > 0)
