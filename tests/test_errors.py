"""What a person reads when something is wrong: one printable line that calls options by their names."""

import command_line
import pytest

from keras_vit.commands.wording import in_options
from keras_vit.errors import InputError, printable
from keras_vit.files import finite

HOSTILE = {
    "line breaks": "a\nb\r\nc\u2028d\u2029e\x85f",
    "escape sequences": "\x1b[31m\x1b]0;title\x07\x9b2J",
    "direction marks": "\u202egnp.exe\u2066\u200f",
    "undecodable bytes": b"\xff\xfe".decode(errors="surrogateescape"),
    "10 kB": "x" * 10_000,
    "10 kB of words": "word " * 2_000,
    "zero": "\0",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_message_is_one_printable_line_that_keeps_its_way_out(name, tmp_path, capsys):
    message = str(InputError(f"there is no {name}: give another --out."))
    assert message.isprintable()
    assert len(message) < 2100
    assert message.startswith("there is no ")
    assert message.endswith(": give another --out.")
    message.encode()  # no lone surrogates
    if "\0" not in name:  # no process can be given that
        code, out, err = command_line.run(capsys, "quantize", name, "--profile", "int8")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.removesuffix("\n").isprintable()
        assert ("keras-vit train" if len(name) < 5000 else "give a shorter name") in err


def test_what_can_be_printed_is_left_alone():
    for text in ("a plain message, with 'quotes' and \\ backslashes", "Müller 猫 😀 naïve", "x" * 300):
        assert printable(text) == text


OPTIONS = {
    "image_size": "--image-size",
    "num_heads": "--num-heads",
    "skip_bad": "--skip-bad",
    "epochs": "--epochs",
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("epochs must be at least 1, not 0.", "--epochs must be at least 1, not 0."),
        ("all epochs must end.", "all epochs must end."),
        ("give num_heads=...", "give --num-heads ..."),
        ("image_size must be positive", "--image-size must be positive"),
        ("use image_size=(8, 32)", "use --image-size 8x32"),
        ("give image_size=(height, width), the size", "give --image-size HEIGHTxWIDTH, the size"),
        ("--skip-bad (skip_bad=True) leaves it out", "--skip-bad leaves it out"),
        ("folder/image_size.txt has heads", "folder/image_size.txt has heads"),
        (
            "there is no '/me/image_size/a.png': use num_heads=2",
            "there is no '/me/image_size/a.png': use --num-heads 2",
        ),
        ("'skip_bad' has the class 'epochs=3'", "'skip_bad' has the class 'epochs=3'"),
        ("image_size/a.png is bad", "image_size/a.png is bad"),
        ('"it\'s num_heads=2": num_heads must be even', '"it\'s num_heads=2": --num-heads must be even'),
    ],
)
def test_arguments_are_called_by_their_options(message, expected):
    assert in_options(message, OPTIONS) == expected


def test_json_has_no_nan():
    value = {"a": [1.5, float("nan"), (float("inf"), "NaN")], "b": {"c": -float("inf")}, "d": 3}
    assert finite(value) == {"a": [1.5, None, [None, "NaN"]], "b": {"c": None}, "d": 3}
