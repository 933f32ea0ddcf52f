"""Damaged files of every kind that is read: see run.py."""

import importlib

_PLACES = {
    "pictures": "pictures:Pictures",
    "zips": "archives:Archives",
    "tables": "tables:Tables",
    "checkpoints": "checkpoints:Checkpoints",
    "json": "folders:Folders",
    "tflite": "tflites:TFLites",
}
TARGETS = {"pictures": 0.45, "zips": 0.15, "tables": 0.15, "checkpoints": 0.15, "json": 0.05, "tflite": 0.05}


def load_target(name):
    """The class of a target, with what it imports."""
    module, _, kind = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"fuzz.{module}"), kind)
