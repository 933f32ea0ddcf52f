"""The edge scripts answer as `keras-vit predict` does, and need neither TensorFlow, Keras nor keras_vit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damaged_tflite import crashing
from PIL import Image

from keras_vit import cli

SCRIPT = Path(__file__).resolve().parents[2] / "mobile_demo" / "edge" / "classify.py"
LABELS = ["apple", "pear", "plum", "fig", "date", "嫩豌豆"]
# Runs the script as `python classify.py ...` does, and fails if it imported what a small board lacks.
WATCHED = """
import runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "keras_vit"):
            sys.exit(f"imported {name}")
sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, convert):
    """Two files with the signature of an export and its labels.txt: float32, and uint8 at both ends.

    For pictures of 8 x 12; one matrix instead of a ViT, which converts in a second.
    """
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("edge")
    random = np.random.default_rng(0)
    weights = tf.constant(random.normal(0, 0.2, (8 * 12 * 3, len(LABELS))), tf.float32)

    def probability(image):
        return tf.nn.softmax(tf.reshape(image / 127.5 - 1, [1, -1]) @ weights)

    convert(probability, folder / "float32.tflite", size=(8, 12))
    pictures = random.uniform(-60, 240, (32, 8, 12, 3))  # so that the zero point is not 0
    convert(probability, folder / "int8_full.tflite", size=(8, 12), representative=pictures)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return folder


def picture_files(folder):
    """Each kind of picture that needs something done to it, one file each."""
    random = np.random.default_rng(1)

    def blotches(height, width, channels):
        coarse = random.integers(0, 256, (5, 5, channels), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera on its side
    blotches(61, 43, 3).save(folder / "turned.png", exif=turned)
    blotches(20, 97, 4).save(folder / "transparent.png")
    blotches(5, 7, 3).quantize(8).save(folder / "tiny.gif")
    blotches(8, 12, 3).save(folder / "exact.png")
    blotches(300, 40, 3).convert("CMYK").save(folder / "print.jpg")
    grey = random.integers(0, 65536, (30, 30), dtype=np.uint16)
    Image.fromarray(grey).save(folder / "sixteen.png")
    return sorted(folder.iterdir())


def classify(model, picture):
    """(exit code, standard output, standard error) of the script."""
    words = [sys.executable, "-c", WATCHED, str(SCRIPT), str(model), str(picture)]
    # From another folder, so that this repository cannot be imported by chance.
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=Path(picture).parent, env={**os.environ, "PYTHONUTF8": "1"}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["float32.tflite", "int8_full.tflite"])
def test_the_script_answers_as_predict_does(exported, tmp_path, capsys, monkeypatch, name):
    files = picture_files(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(
        sys, "argv", ["keras-vit", "predict", str(exported / name), *map(str, files), "--json"]
    )
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    expected = json.loads(capsys.readouterr().out)
    winners = set()
    for file, predicted in zip(files, expected, strict=True):
        code, output, error = classify(exported / name, file)
        assert code == 0, error
        shares, labels = zip(*(line.split("%  ") for line in output.splitlines()), strict=True)
        assert list(labels) == [row["label"] for row in predicted["predictions"]], file.name
        wanted = [100 * row["probability"] for row in predicted["predictions"]]
        assert len(wanted) == 5
        # Half a digit of each way of rounding.
        np.testing.assert_allclose([float(share) for share in shares], wanted, atol=0.0051)
        winners.add(output.splitlines()[0])
    assert len(winners) == len(files)  # else the pictures would prove nothing


def test_one_class_gets_both_its_labels_and_logits_are_no_percentages(tmp_path, convert):
    import tensorflow as tf

    Image.fromarray(np.full((8, 12, 3), 51, np.uint8)).save(tmp_path / "dark.png")  # 0.2 of 255
    (tmp_path / "labels.txt").write_text("fine\ndefect\n")

    def mean(image):
        return tf.reduce_mean(image / 255, axis=[1, 2])[:, :1]

    convert(mean, tmp_path / "one.tflite", size=(8, 12))
    assert classify(tmp_path / "one.tflite", tmp_path / "dark.png")[:2] == (
        0,
        " 80.00%  fine\n 20.00%  defect\n",
    )
    convert(
        lambda image: mean(image) * [[-10.0, 10.0]], tmp_path / "two.tflite", size=(8, 12), output="logits"
    )
    found = classify(tmp_path / "two.tflite", tmp_path / "dark.png")[:2]
    assert found == (0, "        2  defect\n       -2  fine\n")


def test_labels_of_another_model_are_refused(exported, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    (tmp_path / "model.tflite").write_bytes((exported / "float32.tflite").read_bytes())
    (tmp_path / "labels.txt").write_text("apple\npear\n")
    code, output, error = classify(tmp_path / "model.tflite", tmp_path / "black.png")
    assert (code, output) == (1, "")
    assert "labels.txt has 2 lines" in error and "6 classes" in error


def test_without_a_picture_it_says_how_to_call_it():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "usage: python classify.py EXPORT_DIR/int8_static.tflite picture.jpg\n"


def test_the_script_refuses_what_is_damaged(exported, tmp_path):
    """A file that crashes LiteRT, one that is not what was exported, names that are missing or no text."""
    Image.new("RGB", (12, 8)).save(tmp_path / "a.png")
    content = (exported / "float32.tflite").read_bytes()
    (tmp_path / "bad.tflite").write_bytes(crashing(content))
    (tmp_path / "half.tflite").write_bytes(content[:3000])
    (tmp_path / "fine.tflite").write_bytes(content)
    assert_error(tmp_path, "bad.tflite", "bad.tflite crashed its runtime (signal 11): damaged, copy it")
    assert_error(tmp_path, "half.tflite", "half.tflite cannot be read by LiteRT")
    assert_error(tmp_path, "none.tflite", "there is no file")
    assert_error(tmp_path, "fine.tflite", "labels.txt cannot be read")
    (tmp_path / "labels.txt").write_bytes("\n".join(LABELS).encode("utf-16"))
    assert_error(tmp_path, "fine.tflite", "labels.txt cannot be read")
    for text in ('{"artifacts": [{"name": "fine.tflite", "sha256": "ab"}]}', "null", "{"):
        (tmp_path / "manifest.json").write_text(text)
        assert_error(tmp_path, "fine.tflite", "copy it again.")


def assert_error(folder, name, message):
    code, output, error = classify(folder / name, folder / "a.png")
    assert (code, output) == (1, ""), error
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
