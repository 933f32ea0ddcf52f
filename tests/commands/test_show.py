"""`keras-vit show`: a picture of an augmentation policy, and what it refuses."""

import command_line
import pytest
from PIL import Image


def run(capsys, *words):
    """(exit code, lines of standard error) of `keras-vit show WORDS`."""
    code, _, err = command_line.run(capsys, "show", *words)
    return code, err.splitlines()


def test_it_draws_the_pictures_that_were_asked_for(monkeypatch, capsys, tmp_path):
    sizes = []
    for count in (2, 3):
        out = tmp_path / f"{count}.png"
        code, said = run(capsys, "digits", "--policy", "crop", "--out", out, "--images", count)
        assert code == 0
        assert said[-1] == f"{out}: {count} pictures, policy crop, seed 0"
        sizes.append(Image.open(out).size)
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] < sizes[1][1]  # one row more


@pytest.mark.parametrize(
    ("data", "policy", "out", "message"),
    [
        (
            "digits",
            "stong",
            "grid.png",
            "error: unknown policy 'stong': the known ones are none, affine, light",
        ),
        (
            "digits",
            "strong",
            "grid.docx",
            "grid.docx' names no picture that can be drawn: end it in one of .png",
        ),
        (
            "sort-of-clevr",
            "strong",
            "grid.png",
            "error: sort-of-clevr has several modalities, and augmentation is",
        ),
    ],
)
def test_it_refuses(monkeypatch, capsys, tmp_path, data, policy, out, message):
    code, said = run(capsys, data, "--policy", policy, "--out", tmp_path / out)
    assert code == 2
    assert len(said) == 1 and message in said[0]
    assert list(tmp_path.iterdir()) == []
