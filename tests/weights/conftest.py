"""The fixtures that make_fixtures.py made, and the way from one of them to logits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def fixture(tmp_path):
    """copy(name) -> a folder of tmp_path that can be changed."""

    def copy(name):
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy


@pytest.fixture
def logits_error():
    """(model, name) -> largest difference between a model's logits and the source's."""

    def error(model, name):
        height, width = model.image_size
        images = np.load(FIXTURES / "images.npy")[:, :height, :width]
        return np.abs(np.asarray(model(images)) - np.load(FIXTURES / name / "logits.npy")).max()

    return error


@pytest.fixture
def edit_tensors():
    """(folder, change) calls change({name: array}) on model.safetensors and saves what it leaves there."""

    def edit(folder, change):
        tensors = load_file(folder / "model.safetensors")
        save_file(change(tensors) or tensors, folder / "model.safetensors")

    return edit


@pytest.fixture
def edit_json():
    """(file, **values) sets values at the top of a JSON file; None removes."""

    def edit(file, **values):
        content = {**json.loads(file.read_text()), **values}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit
