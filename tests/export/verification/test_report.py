"""The table and the page show what the report says; nothing is loaded from elsewhere. No TensorFlow here."""

import base64
import io
import json
import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import rich.console
from PIL import Image

from keras_vit.export.verification.report import html, table, write_report
from keras_vit.export.verification.verify import ROW


def row(name, milliseconds, size, **values):
    return {
        **ROW,
        "name": name,
        "kind": "tflite",
        "profile": name.split(".")[0],
        "bytes": size,
        "top1": 0.9375,
        "agreement": 1.0,
        "agreement_float": 1.0,
        "max_abs_diff": 0.0123,
        "mean_abs_diff": 0.001,
        "kl": 0.0004,
        "latency_ms_p50": milliseconds,
        "latency_ms_p95": 1.5 * milliseconds,
        "threads": 1,
        "delegated": 0.5,
        "operators": {"FULLY_CONNECTED": 24, "ADD": 12},
        **values,
    }


@pytest.fixture
def report():
    answers = {"float32.tflite": ("pear", 0.71), "int8.tflite": ("<b>plum</b>", 0.42)}
    sample = {
        "index": 1,
        "label": "pear",
        "answers": {k: {"label": label, "probability": p} for k, (label, p) in answers.items()},
    }
    return {
        "format": 1,
        "images": 1234,
        "labels": ["apple", "pear", "<b>plum</b>"],
        "machine": {"cpu": "A Processor", "cores": 4},
        "versions": {"python": "3.11.2"},
        "artifacts": [
            row("keras/float32.keras", 21.0, 30_000_000, delegated=None, operators={}),
            row("float32.tflite", 14.0, 22_900_000),
            row("int8.tflite", 7.0, 5_800_000, agreement=0.9996),
            {**ROW, "name": "int8_static.tflite", "bytes": 4096, "error": "killed by SIGSEGV & <more>"},
        ],
        "samples": [sample],
    }


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)


def test_the_table_shows_every_artifact(report):
    console = rich.console.Console(width=80, file=io.StringIO())
    console.print(table(report))
    text = console.file.getvalue()
    for artifact in report["artifacts"]:
        assert artifact["name"] in text
    line = next(line for line in text.splitlines() if "int8.tflite" in line)
    shown = ["int8.tflite", "5.8 MB", "93.8%", "99.96%", "0.012", "7", "2.00x", "50.0%"]
    assert re.split(r"\s{2,}", line.strip()) == shown
    assert "int8_static.tflite: killed by SIGSEGV & <more>" in text


def test_nothing_is_loaded_from_elsewhere(report, images):
    page = html(report, images)
    assert "http://" not in page and "https://" not in page
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert set(re.findall(r'(?:src|href)="([a-z]*:|#)', page)) <= {"data:", "#"}
    assert not re.search(r'url\((?!"?#)', page)


def test_the_page_says_it_all_and_escapes_it(report, images):
    page = html(report, images)
    for artifact in report["artifacts"]:
        assert artifact["name"] in page
    assert "killed by SIGSEGV &amp; &lt;more&gt;" in page
    assert "<b>plum" not in page and "✗ &lt;b&gt;plum&lt;/b&gt;" in page
    assert "✗ pear" not in page
    assert "1 of 4 models could not be verified" in page
    assert "FULLY_CONNECTED" in page and "A Processor" in page and "1,234" in page


def test_the_charts_are_well_formed_and_carry_values(report):
    charts = re.findall(r"<svg.*?</svg>", html(report), re.DOTALL)
    assert len(charts) == 2
    for chart, values in zip(
        charts, (("21 ms", "14 ms", "7 ms"), ("30 MB", "22.9 MB", "5.8 MB")), strict=True
    ):
        texts = [
            node.text for node in xml.etree.ElementTree.fromstring(chart.replace("xlink:", "")).iter("text")
        ]
        assert {*values, "float32.tflite"} <= set(texts)
        assert "currentColor" in chart and "#010203" not in chart


def test_pictures_are_the_images_themselves(report, images):
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html(report, images))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))), images[1])
    assert "<img" not in html(report)


def test_the_verdict(report):
    report["artifacts"].pop()
    assert "each answers at least 99.96% of the examples" in html(report)
    report["artifacts"][2]["agreement"] = 1.0
    same = "All 3 models run; each answers like the Keras model it came from, on every example"
    assert same in html(report)


def test_files_are_written_without_nan(report, images, tmp_path):
    report["artifacts"][1]["kl"] = math.nan
    report["artifacts"][2]["latency_ms_p50"] = math.inf
    (tmp_path / "report.html").write_text("old")
    write_report(report, tmp_path, images)
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read["artifacts"][1]["kl"] is None and read["artifacts"][2]["latency_ms_p50"] is None
    assert math.isnan(report["artifacts"][1]["kl"])  # the caller's report is left as it was
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_report_of_failures_alone_is_a_page_too(report):
    report["artifacts"] = report["artifacts"][-1:]
    report["samples"] = []
    page = html(report)
    assert "<svg" not in page and "killed by SIGSEGV" in page
