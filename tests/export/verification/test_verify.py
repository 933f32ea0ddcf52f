"""The report says what is true: checked against numbers computed here, without the code under test."""

import json
import sys

import numpy as np
import pytest

from keras_vit.errors import InputError
from keras_vit.export.verification.verify import compare, verify
from keras_vit.export.verification.workers import reason

NAMES = [
    "keras/float32.keras",
    "keras/int8.keras",
    "float32.tflite",
    "int8.tflite",
    "cut.tflite",
    "changed.tflite",
    "saved_model/1",
]


@pytest.fixture(scope="module")
def truth():
    return np.random.default_rng(1).integers(0, 3, 40)


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def report(directory, images, truth, progress):
    return verify(directory, (images, truth), seconds=0.05, progress=lambda *seen: progress.append(seen))


@pytest.fixture(scope="module")
def rows(report):
    return {row["name"]: row for row in report["artifacts"]}


def test_the_report_is_plain_json_with_a_row_for_everything(report, rows):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["format"], report["images"], report["labels"]) == (1, 40, ["apple", "pear", "plum"])
    assert list(rows) == NAMES
    assert report["machine"]["cores"] >= 1 and set(report["machine"]) == {"cpu", "cores"}
    assert {"python", "tensorflow", "ai-edge-litert"} <= set(report["versions"])


def test_copies_of_the_model_agree_with_it(rows, truth, float_probabilities):
    top1 = sum(int(answer == t) for answer, t in zip(float_probabilities.argmax(-1), truth, strict=True)) / 40
    for name in ("keras/float32.keras", "float32.tflite", "saved_model/1"):
        row = rows[name]
        assert row["error"] is None
        assert row["top1"] == pytest.approx(top1)
        assert row["agreement"] == row["agreement_float"] == 1.0
        assert 0 <= row["mean_abs_diff"] <= row["max_abs_diff"] < 1e-5
        assert abs(row["kl"]) < 1e-6
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
        assert row["threads"] == 1 and row["bytes"] > 0
    assert rows["float32.tflite"]["delegated"] > 0.9
    assert rows["float32.tflite"]["operators"]["FULLY_CONNECTED"] > 4
    assert rows["saved_model/1"]["delegated"] is None and rows["saved_model/1"]["kind"] == "saved_model"


def test_a_different_model_is_found_out(rows, images, models, float_probabilities):
    """int8.tflite holds the float32 weights; keras/int8.keras, its source, other ones."""
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.25, 0.5, 0.4])
    logits = np.asarray(models["int8"]((images / np.float32(255) - mean) / std), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = float_probabilities.astype(np.float64)
    row = rows["int8.tflite"]
    assert row["agreement"] == pytest.approx(np.mean(p.argmax(-1) == q.argmax(-1))) and row["agreement"] < 1
    assert row["kl"] == pytest.approx(
        np.mean([sum(a * np.log(a / b)) for a, b in zip(p, q, strict=True)]), rel=1e-3
    )
    assert row["max_abs_diff"] == pytest.approx(np.abs(p - q).max(), rel=1e-3)
    assert row["agreement_float"] == 1.0
    assert rows["keras/int8.keras"]["agreement"] == 1.0
    assert rows["keras/int8.keras"]["agreement_float"] == row["agreement"]


def test_a_damaged_or_changed_file_is_a_row_with_the_reason(rows):
    assert rows["cut.tflite"]["error"].startswith("cut.tflite cannot be loaded by LiteRT: ")
    assert rows["changed.tflite"]["error"].startswith("changed.tflite is not the file that was exported")
    for name in ("cut.tflite", "changed.tflite"):
        assert rows[name]["top1"] is None and rows[name]["latency_ms_p50"] is None
        assert "\n" not in rows[name]["error"]


def test_samples_show_disagreements_first_and_every_class(report, truth, images):
    samples = report["samples"]
    assert len(samples) == len({sample["index"] for sample in samples}) == 12
    assert {sample["label"] for sample in samples} == {"apple", "pear", "plum"}
    for number, sample in enumerate(samples):
        assert sample["label"] == report["labels"][truth[sample["index"]]]
        assert set(sample["answers"]) == set(NAMES) - {"cut.tflite", "changed.tflite"}
        if number < 4:
            assert len({answer["label"] for answer in sample["answers"].values()}) > 1


def test_progress_is_told(progress):
    assert ("float32.tflite", 0, 40) in progress and ("float32.tflite", 40, 40) in progress


def test_compare_by_hand():
    source = np.array([[0.5, 0.5 - 1e-3, 1e-3], [0.2, 0.2, 0.6]])
    other = np.array([[0.25, 0.75, 0.0], [0.2, 0.2, 0.6]])
    got = compare(other, np.array([1, 2]), source, other)
    assert (got["top1"], got["agreement"], got["agreement_float"]) == (1.0, 0.5, 1.0)
    assert got["max_abs_diff"] == pytest.approx(0.251)
    assert got["mean_abs_diff"] == pytest.approx((0.25 + 0.251 + 0.001) / 6)
    by_hand = 0.5 * np.log(2) + 0.499 * np.log(0.499 / 0.75) + 1e-3 * np.log(1e-3 / 1e-9)
    assert got["kl"] == pytest.approx(by_hand / 2)
    assert compare(other, np.array([0, 2])) == {"top1": 0.5}


def test_a_crash_is_a_row_not_a_crash(directory, images, truth, tmp_path, monkeypatch):
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho INFO: Created delegate. >&2\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    report = verify(directory, (images, truth), limit=5)
    errors = {row["name"]: row["error"] for row in report["artifacts"]}
    assert errors["float32.tflite"] == errors["keras/float32.keras"] == "killed by SIGSEGV"
    assert report["samples"] == [] and report["images"] == 5


def test_the_reason_is_the_last_thing_said():
    said = (
        "Traceback:\n  File\nValueError: no such thing\nWARNING: all is well\nI0000 00:00:1 x.cc:1] hello\n\n"
    )
    assert reason(1, said) == "ValueError: no such thing"
    assert reason(-6, "terminate called") == "killed by SIGABRT: terminate called"
    assert reason(3, "") == "ended with exit code 3"


def test_what_does_not_fit_is_refused(directory, images, truth, tmp_path):
    def refused(match, directory=directory, images=images, labels=truth, **options):
        with pytest.raises(InputError, match=match) as caught:
            verify(directory, (images, labels), **options)
        assert "\n" not in str(caught.value)

    refused("nowhere does not exist", directory=tmp_path / "nowhere")
    refused("holds no manifest.json", directory=tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    refused("manifest.json (is damaged|is not valid JSON|was made by a newer)", directory=tmp_path)
    refused(r"uint8 \[40, 4, 8, 3\], but .* uint8 \[N, 8, 8, 3\]", images=images[:, ::2])
    refused(r"the images run from 0 to 1, but pixels run over 0\.\.255", images=images / 255)
    refused(r"the images run from -1 to 1, but pixels", images=images / 127.5 - 1)
    refused(r"uint8 \[40, 4, 8, 3\], but .* uint8 \[N, 8, 8, 3\]", images=images[:, ::2] * 1.0)
    refused("40 images and labels int64 .39.", labels=truth[1:])
    refused("labels run from 0 to 7, but the exported model knows 3 classes", labels=np.arange(40) % 8)
    refused("limit must be a positive number", limit=0)
    refused("threads must be a positive integer", threads=0)
