"""Layers and modalities keep their promises on the other backends too: their tests, once for each."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@functools.cache
def outcome(backend):
    """{"passed": 900, "skipped": 10, ...} of these tests, and the end of what was printed."""
    # JAX spends its time compiling, which two processes do faster than one.
    parallel = ["-n", "2", "--dist", "loadfile"] if backend == "jax" else []
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/layers",
            "tests/modalities",
            "-q",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            *parallel,
        ],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    last = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ""
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", last)}
    return counts, f"exit {ran.returncode}\n{ran.stdout[-4000:]}\n{ran.stderr[-2000:]}"


@pytest.mark.parametrize("backend", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
def test_the_layers_pass_on(backend):
    counts, printed = outcome(backend)
    assert "failed" not in counts and "error" not in counts and "errors" not in counts, printed
    assert counts.get("passed", 0) >= 1180, printed


@pytest.mark.slow
def test_nothing_is_left_out_but_gradients_on_numpy():
    (jax, printed), (numpy, _) = outcome("jax"), outcome("numpy")
    assert "skipped" not in jax and "deselected" not in jax, printed
    assert "skipped" not in numpy
    assert numpy["passed"] + numpy["deselected"] == jax["passed"]
    assert numpy["deselected"] < 160, "a test of gradients is left out, and there are about 130"


TRAIN = """
import sys

import keras
import numpy as np

import keras_vit

random = np.random.default_rng(0)
model = keras_vit.ViT("Nano/2", image_size=8, classes=3, pooling="mean", registers=2)
model.set_weights([random.normal(0, 0.05, w.shape).astype("float32") for w in model.get_weights()])
images = random.normal(size=(64, 8, 8, 3)).astype("float32")
labels = images.mean((1, 2)).argmax(-1)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.AdamW(5e-3, epsilon=1e-3), loss, metrics=["accuracy"])
history = model.fit(images, labels, batch_size=16, epochs=8, shuffle=False, verbose=0).history
np.savez(sys.argv[1], *model.get_weights(), losses=history["loss"])
"""


def test_fit_gives_the_same_on_jax_and_tensorflow(tmp_path):
    found = {}
    for backend in ("jax", "tensorflow"):
        subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / backend)],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
            capture_output=True,
        )
        found[backend] = np.load(tmp_path / f"{backend}.npz")
    losses = found["jax"]["losses"]
    assert losses[-1] < 0.98 * losses[0], "it learns"
    for name in found["jax"].files:
        np.testing.assert_allclose(found["jax"][name], found["tensorflow"][name], atol=2e-4, err_msg=name)
