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


STEP = """
import sys

import keras
import numpy as np

from keras_vit import MaskedViT, MultimodalViT, ViT, ViTConfig
from keras_vit.modalities import Image, Text

random = np.random.default_rng(0)
config = ViTConfig(patch_size=4, width=8, depth=1, heads=2, mlp_width=9)
images = random.normal(size=(4, 8, 8, 3)).astype("float32")
both = {"image": images, "text": np.array([[2, 3, 0, 0], [4, 2, 2, 0]] * 2, "int32")}
parts = {"image": Image(8, 4), "text": Text(9, length=4)}
found = {}
for name, model, inputs in (
    ("vit", ViT(config, image_size=8, classes=3), images),
    ("multimodal", MultimodalViT(parts, width=8, depth=1, heads=2, classes=3), both),
    ("masked", MaskedViT(ViT(config, image_size=8, classes=None), 0.5, seed=0), images),
):
    for w in model.weights:
        if "seed" not in w.path:
            w.assign(random.normal(0, 0.2, w.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), None if name == "masked" else loss)
    history = model.fit(inputs, np.array([0, 1, 2, 0]), batch_size=4, verbose=0, shuffle=False).history
    found[f"{name} loss"] = history["loss"]
    if name != "masked":  # whose draws are the backend's own
        weights = model.get_weights()
        found |= {f"{name} {i}": w for i, w in enumerate(weights) if w.dtype == "float32"}
np.savez(sys.argv[1], **found)
"""


def python_with_torch():
    """The interpreter of an environment with PyTorch (its wheel for CPUs) and all packages of this one."""
    folder = ROOT / ".venv-torch"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = ["torch==2.13.0", "sympy", "networkx", "filelock"]
        install = [python, "-m", "pip", "install", "-q", "--no-deps", *wanted, "mpmath"]
        subprocess.run(install, check=True)
        site = next((folder / "lib").glob("python3*/site-packages"))
        (site / "main.pth").write_text("\n".join([str(ROOT), *(p for p in sys.path if "site-packages" in p)]))
        (folder / "ready").touch()
    return python


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_one_step_of_fit_is_the_same_as_on_tensorflow(backend, tmp_path):
    found = {}
    for name in (backend, "tensorflow"):
        python = python_with_torch() if name == "torch" else sys.executable
        ran = subprocess.run(
            [python, "-c", STEP, str(tmp_path / name)],
            env={**os.environ, "KERAS_BACKEND": name},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        found[name] = np.load(tmp_path / f"{name}.npz")
    assert len(found[backend].files) > 40
    for name in found[backend].files:
        if name == "masked loss":
            assert np.isfinite(found[backend][name]).all()
        else:
            np.testing.assert_allclose(found[backend][name], found["tensorflow"][name], atol=1e-5)
