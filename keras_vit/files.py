"""Writing so that a crash, a kill or a full disk never harms what was there before; reading regular files
alone; finding labels.
"""

import contextlib
import errno
import glob
import json
import math
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from keras_vit.answers import PROBABILITY, labels_fit
from keras_vit.errors import InputError, Notice

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MOST_LABELS = 2**26  # bytes of labels.txt
FILE_TYPES = {  # of what is no regular file, by its type in `stat`
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path, name: str | None = None) -> BinaryIO:
    """Open a regular file for reading: a binary file object.

    A pipe or a device (also one that a link leads to) would block, or never end.

    Args:
        path: a path, or a string.
        name: what errors call it; the path by default.

    Raises:
        InputError: not there, a folder, a pipe, a socket or a device, or not readable.
    """
    path = os.fspath(path)
    name = str(path) if name is None else name
    try:
        # First by its name: to open some devices is to start them.
        _check_regular(os.stat(path), name)
        # Should a pipe have taken its place since: not to wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(descriptor, "rb")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise InputError(f"{name!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
    try:
        _check_regular(os.fstat(descriptor), name)
    except InputError:
        file.close()
        raise
    return file


def read_regular(path: str | Path, most: int, name: str | None = None) -> bytes:
    """The bytes of a regular file (see `open_regular`); an InputError if there are more than `most`."""
    name = str(path) if name is None else name
    with open_regular(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(
                f"{name!r} is larger than {most >> 20} MiB, the most that is read of such a file."
            )
        try:
            return file.read(size) or b""
        except OSError as error:
            raise InputError(f"{name!r} cannot be read: {error.strerror}.") from error


def _check_regular(status, name):
    file_type = stat.S_IFMT(status.st_mode)
    if file_type == stat.S_IFDIR:
        raise InputError(f"{name!r} cannot be read: Is a directory.")
    if file_type != stat.S_IFREG:
        raise InputError(
            f"{name!r} is no regular file, but {FILE_TYPES.get(file_type, 'something else')}: give a file."
        )


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary name keeps the suffix, since Keras looks at it. It is removed when the block
    fails, and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        with path_in_errors(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # a full disk is noticed here at the latest
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def path_in_errors(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Name `path` in what is raised when there is no room: NumPy, h5py and zipfile leave that out.

    Args:
        path: what is written, a file or a folder.
        temporary: where that is done; never named.
    """
    try:
        yield
    except Exception as error:
        # Keras tries to close a file that could not be written, and raises what comes of that.
        causes: list[BaseException] = [error]
        while causes[-1].__context__ is not None and len(causes) < 20:
            causes.append(causes[-1].__context__)
        for cause in causes:
            number = _errno(cause)
            if number not in NO_ROOM and cause is not error:
                continue
            if number is None:
                continue
            name = str(path)
            file = getattr(cause, "filename", None)
            if temporary is not None and file:
                name = str(file).replace(str(temporary), name)
            raise OSError(number, os.strerror(number), name) from error
        raise


def _errno(error):
    """The number of an operating system's error, which some libraries put into words only."""
    if not isinstance(error, OSError) or error.errno is not None:
        return getattr(error, "errno", None) if isinstance(error, OSError) else None
    match = re.search(r"errno = (\d+)", str(error))  # h5py 3
    if match:
        return int(match[1])
    return errno.ENOSPC if re.search(r"\d+ requested and \d+ written", str(error)) else None  # NumPy 2


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as JSON, atomically. NaN is an `InputError`, since JSON has none."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise InputError(
            f"{path} cannot be written: a number in it is not finite. Look for NaN or infinity in the "
            "model's weights and in the data."
        ) from None
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(value: object) -> object:
    """`value`, plain JSON types, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes the place of `path` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    old = path.with_name(f".replaced-{os.getpid()}-{path.name}")
    temporary.mkdir()
    try:
        with path_in_errors(path, temporary):
            yield temporary
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def find_labels(path: str | Path, num_classes: int | None, output: str = PROBABILITY) -> list[str] | None:
    """The lines of the nearest labels.txt, in the folder of a model file or up to three above, or None.

    One with another number of lines belongs to something else: a wrong name is worse than none. For the
    probability of one class (`output`) it has one line or two: see `answers`.
    """
    path = Path(path).resolve()
    folder = path if path.is_dir() else path.parent
    for place in [folder, *folder.parents][:4]:
        file = place / "labels.txt"
        if not file.is_file():
            continue
        try:
            labels = read_regular(file, MOST_LABELS).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is no text in UTF-8 ({error}): save it as UTF-8.") from error
        if labels_fit(len(labels), num_classes, output):
            return labels
        if place == folder:
            message = f"{file} is not used: it has {len(labels)} lines, and the model {num_classes} classes."
            warnings.warn(Notice(message), stacklevel=2)
    return None


def _clear_leftovers(path):
    """Remove what a killed process left beside `path`; put back a folder that it was replacing."""
    for leftover in path.parent.glob(f".*-{glob.escape(path.name)}"):
        prefix, _, rest = leftover.name.partition("-")
        owner = rest.removesuffix(f"-{path.name}")
        if prefix not in (".writing", ".replaced") or not owner.isdecimal() or _is_running(int(owner)):
            continue
        if prefix == ".replaced" and not path.exists():
            os.replace(leftover, path)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
