"""A mistyped path, a pipe or a hostile name: one line at once, before TensorFlow is imported."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

RUN_ALL = """
import contextlib, io, json, signal, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise SystemExit(f"imports {name}")

sys.meta_path.insert(0, Blocker())
from keras_vit import cli

results = []
for words in json.load(sys.stdin):
    sys.argv, said = ["keras-vit", *words], io.StringIO()
    signal.alarm(60)  # ends the process where a command waits for ever
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    results.append([code, said.getvalue()])
json.dump(results, sys.stdout)
"""


def commands(data, run, file, wrong):
    """Every command with a path; `wrong` in each of its places, and in the others what is there."""
    picture = data / "cat" / "0.png"
    out = ["--out", "out"]
    return [
        ["train", wrong, *out],
        ["train", wrong, "--start", file, *out],
        ["train", data, "--start", wrong, *out],
        ["train", data, "--teacher", wrong, *out],
        ["pretrain", wrong, *out],
        ["pretrain", data, "--start", wrong, *out],
        ["find-rate", wrong],
        ["find-rate", data, "--start", wrong],
        ["probe", wrong, data],
        ["probe", file, wrong],
        ["show", wrong, "--out", "grid.png"],
        ["pack", wrong, *out],
        ["import", wrong, *out],
        ["import", file, "--labels", wrong, *out],
        ["quantize", wrong, "--profile", "int8"],
        ["quantize", run, "--profile", "int8", "--data", wrong],
        ["export", wrong, *out],
        ["export", run, "--data", wrong, *out],
        ["evaluate", wrong, data],
        ["evaluate", run, wrong],
        ["benchmark", wrong],
        ["predict", wrong, picture],
        ["predict", file, wrong],
        ["predict", file, picture, wrong],
        ["predict", file, "--image", wrong],
        ["predict", file, "--audio", wrong],
        ["predict", file, "--video", wrong],
        ["predict", file, "--action", wrong],
        ["explain", wrong, picture, "--out", "why.png"],
        ["explain", file, wrong, "--out", "why.png"],
        ["explain", file, "--image", wrong, "--out", "why.png"],
        ["explain", file, "--audio", wrong, "--out", "why.png"],
        ["explain", file, data, "--out", "why.png"],
        ["demo-app", wrong],
    ]


@pytest.mark.parametrize("kind", ["nothing", "pipe", "hostile"])
def test_it_fails_at_once_in_one_line(tmp_path, kind):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "run").mkdir()
    config = {"labels": ["cat", "dog"], "data": {"source": "digits", "fingerprint": None}}
    config["recipe"] = {"image_size": [16, 16]}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "model.keras").write_bytes(b"something")
    wrong = {"nothing": "gone", "pipe": "a pipe", "hostile": "\x1b[2J\u202e" + 5000 * "x" + "\n\udce9"}[kind]
    if kind == "pipe":
        os.mkfifo(tmp_path / wrong)
    given = commands(tmp_path / "data", tmp_path / "run", tmp_path / "model.keras", wrong)
    found = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps([[str(word) for word in words] for words in given]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert found.returncode == 0, found.stderr
    for words, (code, said) in zip(given, json.loads(found.stdout), strict=True):
        assert code == 2, (words, code, said[:500])
        assert said.startswith("error: ") and said.endswith("\n") and said[:-1].isprintable(), (
            words,
            said[:500],
        )
        assert len(said) < 2100
        assert {"nothing": "gone", "pipe": "a pipe", "hostile": "xxx"}[kind] in said or words[
            2
        ] == tmp_path / "data"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["data", "run", "model.keras", *(["a pipe"] if kind == "pipe" else [])])
