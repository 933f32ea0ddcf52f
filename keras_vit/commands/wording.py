"""Errors of the library in the words of the command line: `--image-size` for its argument image_size."""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.files import path_in_errors

# An argument that a command passes on under another name -> that of the command.
OTHER_NAMES = {
    "method": "calibration_method",
    "images": "calibrate",
}
QUOTED = re.compile(r"""((?<![\w=])(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w))""")


def speaks_of_options(command: Callable, options: Callable[[], dict[str, str]]) -> Callable:
    """`command`, whose `InputError`s call its arguments by their options.

    Args:
        command: a function of `keras_vit.commands`.
        options: gives {argument of the function: its option}; asked only when there is an error.
    """

    @functools.wraps(command)
    def spoken(*arguments, **named):
        try:
            check_parents(named.get("out"))
            result = command(*arguments, **named)
            with path_in_errors("standard output"):
                sys.stdout.flush()  # here a full disk still is an error that can be said
            return result
        except InputError as error:
            raise InputError(in_options(str(error), options())) from error

    return spoken


def check_parents(out: Path | None) -> None:
    """Refuse an `out` below something that is no folder, before anything slow."""
    for parent in out.parents if out is not None else ():
        if os.path.lexists(parent) and not os.path.isdir(parent):
            raise InputError(f"{parent} is no folder, so nothing can be written to {out}: use another --out.")


def in_options(message: str, options: dict[str, str]) -> str:
    """`message` with every argument in `options` called by its option.

    `num_heads=4` becomes `--num-heads 4`, `image_size=(8, 32)` `--image-size 8x32` and `skip_bad=True`
    `--skip-bad`.
    A name that could be a word of English is changed only there and before "must". What stands in quotes
    on its own, or has a "/" beside it, is a name of the user's and stays.
    """
    parts = QUOTED.split(message)  # every other one is in quotes
    parts[::2] = [_in_options(part, options) for part in parts[::2]]
    return "".join(parts)


def _in_options(message, options):
    others = {other: options[name] for other, name in OTHER_NAMES.items() if name in options}
    for name, option in (others | options).items():
        start = rf"(?<![\w./\\-]){re.escape(name)}(?![/\\])"
        message = re.sub(rf"{option} \({name}=[^)]*\)", option, message)  # both are named already
        message = re.sub(rf"{start}=\((\d+), (\d+)\)", rf"{option} \1x\2", message)
        message = re.sub(rf"{start}=\(height, width\)", f"{option} HEIGHTxWIDTH", message)
        message = re.sub(rf"{start}=True\b", option, message)
        message = re.sub(rf"{start}=", f"{option} ", message)
        message = re.sub(rf"(?:(?<=^)|(?<=: )){re.escape(name)}(?= (must|are|is)\b)", option, message)
        if "_" in name:
            message = re.sub(rf"{start}(?![\w.(])", option, message)
    return message
