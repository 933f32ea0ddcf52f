"""What the commands say, and how TensorFlow is imported without a word of its own."""

import contextlib
import json
import os
import sys
import tempfile
import warnings

from keras_vit.errors import InputError, Notice, printable
from keras_vit.files import finite, path_in_errors


def say(line):
    sys.stderr.write(f"{printable(line)}\n")  # in one piece, since threads say things too
    sys.stderr.flush()


def print_json(value: object) -> None:
    """Print `value` for programs: no NaN and no infinity, which JSON does not have, and ASCII alone.

    So it can be printed in every locale, and a file name that cannot be decoded does not stop it.
    """
    with path_in_errors("standard output"):
        print(json.dumps(finite(value), indent=2, allow_nan=False), flush=True)


def console():
    from rich.console import Console

    return Console(stderr=True, markup=False)  # a file's name may hold brackets


def wide_console():
    """Standard output, wide enough for every column of a table also where it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, markup=False)


@contextlib.contextmanager
def task(title):
    """A progress bar; yields a function of (done, total) or (note, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title, markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, TextColumn("{task.fields[note]}", markup=False), console=console(), transient=True
    ) as bar:
        task = bar.add_task("", total=None, note="")

        def update(*arguments):
            *note, done, total = arguments
            bar.update(task, completed=done, total=total, note=" ".join(note))

        yield update


def import_tensorflow():
    """Import Keras and TensorFlow without the lines that TensorFlow writes on the way."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}: the command line needs tensorflow. Unset it."
        )
    with without_chatter():
        import tensorflow

    tensorflow.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def _notices_afterwards():
    noted = []
    try:
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(message, category, *where, **more):
                if issubclass(category, Notice):
                    noted.append(message)
                else:
                    usual(message, category, *where, **more)

            warnings.showwarning = show
            yield
    finally:
        for message in noted:
            warnings.warn(message, stacklevel=2)


@contextlib.contextmanager
def without_chatter():
    """Keep back what TensorFlow and LiteRT write to standard error, unless the block fails.

    They write before they have read any setting, and below Python: only the descriptor catches it.
    A `Notice` is for the user, and is shown afterwards.
    """
    with _notices_afterwards(), tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except InputError:
            raise
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
