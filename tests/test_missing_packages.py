"""Without a package that one feature needs, everything else works, and that feature says what to install."""

import os
import subprocess
import sys

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
WITHOUT = """
import sys

MISSING = ("keras_cv", "tensorflow_model_optimization", "tensorflow_serving", "tensorboard", "tf_keras")


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ImportError(f"no {name} here")


sys.meta_path.insert(0, Missing())
from pathlib import Path

import numpy as np
from rich.console import Console

from keras_vit.errors import NotInstalled
from keras_vit.export import export, quantize_aware, verify
from keras_vit.training import load_data, recipe, train

folder, data = Path(sys.argv[1]), load_data("digits")
options = {"image_size": (8, 8), "variant": "Nano/8", "epochs": 1, "batch_size": 256}
quiet = Console(quiet=True)
history = train(data, folder / "run", recipe(augment="affine", **options), quiet, progress="quiet")
assert len(history) == 1 and np.isfinite(history[0]["loss"])

import keras

model = keras.models.load_model(folder / "run" / "model.keras")
export(model, folder / "dist", ["float32", "float16"], labels=data.labels)
rows = verify(folder / "dist", data, limit=50, seconds=0)["artifacts"]
assert [row["error"] for row in rows] == [None] * len(rows) and rows[-1]["agreement"] == 1.0, rows
assert not list(folder.rglob("tf_serving_warmup_requests"))
for feature, call in {
    "quantization": lambda: quantize_aware(model, "int8"),
    "RandAugment": lambda: train(data, folder / "other", recipe(augment="strong", **options), quiet),
}.items():
    try:
        call()
    except NotInstalled as error:
        assert feature in str(error) and "pip install " in str(error), error
    else:
        raise AssertionError(feature)
print("all is well")
"""


def test_everything_else_works_without_them(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == "all is well", found.stderr[-3000:]


def test_tensorboard_is_asked_for_before_anything_slow(tmp_path, monkeypatch, capsys):
    import importlib.util

    import command_line

    usual = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else usual(name)
    )
    code, _, err = command_line.run(capsys, "train", "digits", "--out", tmp_path / "run", "--tensorboard")
    assert code == 2 and "pip install 'keras-vit[tensorboard]'" in err
    assert list(tmp_path.iterdir()) == []
