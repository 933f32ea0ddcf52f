"""Where pictures lie: a folder or a .zip, as one tree of names. Nothing is unpacked."""

import contextlib
import dataclasses
import difflib
import io
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path

from keras_vit.errors import InputError
from keras_vit.training.images import is_image_name

BUILT_IN = {"digits": 8, "cifar10": 32}  # name -> image size
TFDS = "tfds:"  # and the name of a data set of tensorflow-datasets
MAX_FILE = 2**29  # bytes; no picture is larger, but a zip bomb is
EXPECTED = (
    "expected a folder with one subfolder per class, a .zip of such a folder, a folder made by "
    "keras-vit pack, tfds:NAME of tensorflow-datasets, or a built-in name: " + ", ".join(BUILT_IN)
)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A folder or a .zip: relative names with "/", "" for the top."""

    source: str
    folders: dict  # folder -> its direct subfolders
    files: dict  # picture -> what the fingerprint takes of it: (size,) or (size, crc)
    open: object  # name -> a binary file

    def read(self, name):
        """The bytes of a file. Raises InputError."""
        if self.files[name][0] > MAX_FILE:
            raise InputError(f"{name!r} is larger than {MAX_FILE >> 20} MiB: expected a picture.")
        try:
            with self.open(name) as file:
                return file.read()
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"{name!r} cannot be read: {why}.") from error


def is_name(source):
    """Whether `source` is no path, but the name of a set."""
    return isinstance(source, str) and (source in BUILT_IN or source.startswith(TFDS))


@contextlib.contextmanager
def open_tree(source):
    """Yield the `Tree` of a folder or a .zip. Raises InputError."""
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"the data is a {type(source).__name__}: {EXPECTED}.")
    path = Path(source).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name that the file system refuses, such as a very long one
        exists = False
    if not exists or not str(source):
        near = difflib.get_close_matches(str(source), BUILT_IN, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"there is no {str(source)!r}: {EXPECTED}.{hint}")
    if path.is_dir():
        folders, files = {}, {}
        _scan(path, "", (), folders, files)
        yield Tree(str(path), folders, files, lambda name: (path / name).open("rb"))
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        try:
            archive = zipfile.ZipFile(path)
        except (
            OSError,
            EOFError,
            ValueError,
            NotImplementedError,
            struct.error,
            zipfile.BadZipFile,
        ) as error:
            raise InputError(f"{str(path)!r} is not a sound .zip ({error}): get or make it again.") from error
        with archive:
            yield _zip_tree(str(path), archive)
    else:
        raise InputError(f"{str(path)!r} is neither a folder nor a .zip: {EXPECTED}.")


def _scan(folder, name, above, folders, files):
    real = os.path.realpath(folder)
    folders[name] = []
    if real in above:  # a link to a folder that it lies in
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir():
            if not _is_hidden(entry.name):
                folders[name].append(entry.name)
                _scan(entry.path, below, (*above, real), folders, files)
        elif is_image_name(below):
            # A link to nothing: reading it will say so.
            files[below] = (entry.stat().st_size if entry.is_file() else -1,)


def _zip_tree(source, archive):
    folders, files, members = {"": []}, {}, {}
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise InputError(f"{source!r} is encrypted: unpack it with its password and give the folder.")
        # Some Windows programs write "\" into a .zip.
        parts = [part for part in member.filename.replace("\\", "/").split("/") if part not in ("", ".")]
        is_folder = member.filename.endswith(("/", "\\"))
        if not parts or any(map(_is_hidden, parts)):
            continue
        above = ""
        for part in parts if is_folder else parts[:-1]:
            name = f"{above}/{part}" if above else part
            if name not in folders:
                folders[name] = []
                folders[above].append(part)
            above = name
        name = "/".join(parts)
        if not is_folder and is_image_name(name):
            files[name] = (member.file_size, member.CRC)
            members[name] = member
    lock = threading.Lock()  # a ZipFile is not made for reading from several threads

    def read(name):
        with lock:
            return io.BytesIO(archive.read(members[name]))

    return Tree(source, folders, files, read)


def _is_hidden(name):
    return name.startswith(".") or name == "__MACOSX"
