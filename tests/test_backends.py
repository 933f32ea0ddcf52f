"""Layers and modalities keep their promises on the other backends too: their tests, once for each."""

import functools
import os
import pathlib
import re
import subprocess
import sys

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


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_layers_pass_on(backend):
    counts, printed = outcome(backend)
    assert "failed" not in counts and "error" not in counts and "errors" not in counts, printed
    assert counts.get("passed", 0) >= 1180, printed


def test_nothing_is_left_out_but_gradients_on_numpy():
    (jax, printed), (numpy, _) = outcome("jax"), outcome("numpy")
    assert "skipped" not in jax and "deselected" not in jax, printed
    assert "skipped" not in numpy
    assert numpy["passed"] + numpy["deselected"] == jax["passed"]
    assert numpy["deselected"] < 160, "a test of gradients is left out, and there are about 130"
