"""Whose folder is it? What `export` may replace, told without TensorFlow."""

import json
from pathlib import Path

from keras_vit.errors import InputError


def check_ours(directory):
    """Refuse a path that an export may not replace."""
    directory = Path(directory)
    if directory.is_file():
        raise InputError(f"{directory} is a file: --out takes a folder.")
    if directory.exists() and any(directory.iterdir()):
        try:
            ours = "keras_vit" in json.loads((directory / "manifest.json").read_bytes())["versions"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            ours = False
        if not ours:
            raise InputError(
                f"{directory} is not empty and was not made by an export (no manifest.json of ours): it is "
                "left alone. Use another --out."
            )
