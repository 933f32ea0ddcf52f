"""What the commands say of data: what was left out, passed over, read in another way."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_vit.commands.common import load_images, load_multimodal
from keras_vit.errors import InputError, Notice


def test_bad_rows_and_other_encodings_of_a_table_are_said(tmp_path, capsys):
    for i in range(4):
        Image.fromarray(np.full((16, 16, 3), 60 * i, "uint8")).save(tmp_path / f"{i}.png")
    rows = ["label;image;text", *[f"{'ab'[i % 2]};{i}.png;fällt" for i in range(4)]]
    (tmp_path / "test.csv").write_bytes("\n".join(rows).encode())
    (tmp_path / "train.csv").write_bytes(
        "\n".join([*rows, "a;gone1.png;x", "b;gone2.png;y"]).encode("latin-1")
    )
    said = pytest.warns(Notice, match="train.csv' is no text in UTF-8 and was read as Windows-1252")
    with said, pytest.raises(InputError, match=r"2 of 10 rows in .*line 6: .*gone1.png.*line 7: .*gone2.png"):
        load_multimodal(str(tmp_path))
    with pytest.warns(Notice, match="train.csv' is no text in UTF-8 and was read as Windows-1252"):
        loaded = load_multimodal(str(tmp_path), skip_bad=True)
    assert (len(loaded.train), len(loaded.test)) == (4, 4)
    said = capsys.readouterr().err
    assert "2 bad rows left out: train.csv, line 6; train.csv, line 7\n" in said
    assert "4 to train, 4 held out, 2 classes" in said


def test_files_that_are_passed_over_are_said(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
            (tmp_path / name / f"{i}.heic").write_bytes(b"")
        (tmp_path / name / "notes").write_bytes(b"")
    load_images(str(tmp_path), 8, False)
    expected = "8 files passed over (no pictures that are read, or outside the class folders): "
    assert f"{expected}6 .heic, 2 without a suffix\n" in capsys.readouterr().err


CHATTER = """
import functools, os, warnings
from keras_vit import cli
from keras_vit.commands.terminal import without_chatter
from keras_vit.errors import Notice

warnings.showwarning = functools.partial(cli._note, warnings.showwarning)
with without_chatter():
    os.write(2, b"chatter of TensorFlow")
    warnings.warn("for the user", Notice)
"""


def test_notices_come_through_where_chatter_is_kept_back():
    found = subprocess.run([sys.executable, "-c", CHATTER], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "note: for the user\n")
