"""Layers and modalities keep their promises on the other backends too: their tests, once for each."""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@functools.cache
def outcome(backend, *files):
    """{"passed": 900, "skipped": 10, ...} of these tests, and the end of what was printed."""
    # JAX spends its time compiling, which two processes do faster than one.
    parallel = ["-n", "2", "--dist", "loadfile"] if backend == "jax" and not files else []
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *(files or ("tests/layers", "tests/modalities")),
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
    assert counts.get("passed", 0) >= 1280, printed


def test_attention_passes_on_jax():
    """All layers on JAX take minutes to compile; the layer with most in it stands for them here."""
    counts, printed = outcome("jax", "tests/layers/test_attention.py")
    assert set(counts) <= {"passed", "warnings", "warning"} and counts.get("passed", 0) >= 40, printed


@pytest.mark.slow
def test_nothing_is_left_out_but_gradients_on_numpy():
    (jax, printed), (numpy, _) = outcome("jax"), outcome("numpy")
    assert "skipped" not in jax and "deselected" not in jax, printed
    assert "skipped" not in numpy
    assert numpy["passed"] + numpy["deselected"] == jax["passed"]
    assert numpy["deselected"] < 160, "a test of gradients is left out, and there are about 130"


FIT = """
import sys

import keras
import numpy as np

from keras_vit import MaskedViT, MultimodalViT, ViT, ViTConfig
from keras_vit.modalities import Image, Text

random = np.random.default_rng(0)
config = ViTConfig(patch_size=4, width=8, depth=1, num_heads=2, mlp_width=9)
images = random.normal(size=(16, 8, 8, 3)).astype("float32")
labels = images.mean((1, 2)).argmax(-1)
both = {"image": images, "text": random.integers(0, 9, (16, 4)).astype("int32")}
parts = {"image": Image(8, 4), "text": Text(9, length=4)}


class Halves(MaskedViT):
    # The masks are drawn by the backend, each its own.
    def hidden(self, batch, length, real=None, training=None):
        return keras.ops.tile(keras.ops.convert_to_tensor([[True, False, False, True]]), (batch, 1))


found = {}
for name, model, inputs in (
    ("vit", ViT(config, image_size=8, num_classes=3, pooling="mean", registers=2), images),
    ("multimodal", MultimodalViT(parts, width=8, depth=1, num_heads=2, num_classes=3), both),
    ("masked", Halves(ViT(config, image_size=8, num_classes=None), 0.5), images),
):
    for w in model.trainable_weights:
        w.assign(random.normal(0, 0.2, w.shape))
    loss = None if name == "masked" else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    losses = []
    for epochs, weights in ((1, "after a step"), (4, "after five")):
        losses += model.fit(
            inputs, labels, batch_size=16, epochs=epochs, shuffle=False, verbose=0
        ).history["loss"]
        found |= {f"{name} {weights}: {w.path}": w.numpy() for w in model.trainable_weights}
    found[f"{name} losses"] = losses
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


@functools.cache
def fitted(backend):
    """{what: value} that `fit` gives on a backend."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "found.npz")
        ran = subprocess.run(
            [python_with_torch() if backend == "torch" else sys.executable, "-c", FIT, str(file)],
            env={**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return dict(np.load(file))


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_fit_gives_the_same_as_on_tensorflow(backend):
    given, expected = fitted(backend), fitted("tensorflow")
    assert set(given) == set(expected) and len(given) > 100
    for name, value in given.items():
        if name.endswith("losses"):
            assert value[-1] < value[0], f"{name}: it learns"
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)
