"""Where pictures lie: a folder or a .zip, as one tree of names. Nothing is unpacked."""

import bz2
import collections
import contextlib
import copy
import dataclasses
import difflib
import lzma
import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from keras_vit.data.decoding import MAX_FILE, is_image_name
from keras_vit.errors import InputError
from keras_vit.files import open_regular, read_regular

BUILT_IN = {"digits": 8, "cifar10": 32}  # name -> image size
TFDS = "tfds:"  # and the name of a data set of tensorflow-datasets
MAX_DEPTH = 64  # folders in each other
MAX_GROWTH = 2**33, 200  # bytes that a .zip may unpack to in any case, and times its own size
EXPECTED = (
    "expected a folder with one subfolder per class, a .zip of such a folder, a folder made by "
    "keras-vit pack, tfds:NAME of tensorflow-datasets, or a built-in name: " + ", ".join(BUILT_IN)
)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A folder or a .zip: relative names with "/", "" for the top.

    Attributes:
        source: what was given.
        folders: {folder: its direct subfolders}.
        files: {picture: what the fingerprint takes of it, (size,) or (size, crc)}.
        content: name -> the bytes of a picture, not yet of any size.
        others: names of files that are no pictures, hidden ones left out.
        links: {folder: the one that it is a link to, and under whose name its pictures are found}; of one
            that lies above the tree, its path.
    """

    source: str
    folders: dict
    files: dict
    content: Any
    others: list = dataclasses.field(default_factory=list)
    links: dict = dataclasses.field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """The bytes of a picture. Raises InputError."""
        if self.files[name][0] > MAX_FILE:
            raise InputError(f"{name!r} is larger than {MAX_FILE >> 20} MiB: expected a picture.")
        try:
            return self.content(name)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # zipfile and the decompressors raise many kinds on damaged files
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"{name!r} cannot be read: {why}.") from error


def is_name(source: object) -> bool:
    """Whether `source` is no path, but the name of a set."""
    return isinstance(source, str) and (source in BUILT_IN or source.startswith(TFDS))


def found_path(source: str | Path) -> Path:
    """The path of a source that is no name. Raises InputError where nothing lies there."""
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
    return path


@contextlib.contextmanager
def open_tree(source: str | Path) -> Iterator[Tree]:
    """Yield the `Tree` of a folder or a .zip. Raises InputError."""
    path = found_path(source)
    if path.is_dir():
        yield _folder_tree(path)
        return
    with open_regular(path) as file:
        try:
            is_zip = path.suffix.lower() == ".zip" or zipfile.is_zipfile(file)
            archive = zipfile.ZipFile(file) if is_zip else None
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises many kinds on damaged files
            why = str(error) or type(error).__name__
            raise InputError(f"{str(path)!r} is not a sound .zip ({why}): get or make it again.") from error
        if archive is None:
            raise InputError(f"{str(path)!r} is neither a folder nor a .zip: {EXPECTED}.")
        with archive:
            yield _zip_tree(str(path), archive, os.fstat(file.fileno()).st_size)


def count_suffixes(names: Iterable[str]) -> dict:
    """{suffix: how many of `names` have it}, the most frequent first; "" for those that have none."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    # A suffix tells what kind of file it is: a long one, or one with odd characters, does not.
    counts = collections.Counter(s if len(s) <= 10 and s[1:].isalnum() else "" for s in suffixes)
    return dict(counts.most_common())


def _folder_tree(root):
    """Each folder once, by its own name where it has one in here, else by the first link that leads to it.

    Otherwise links that meet would make many pictures of one, and give some two classes. Links to files are
    taken as they are: a picture that is linked twice counts twice, as one that is copied does.
    """
    tree = Tree(str(root), {}, {}, lambda name: read_regular(root / name, MAX_FILE, name))
    top = os.path.realpath(root)
    seen = {}  # (device, inode) -> name
    waiting = collections.deque()
    _scan(root, "", tree, seen, waiting)
    while waiting:
        link = waiting.popleft()
        path = root / link
        real = os.path.realpath(path)
        if top.startswith(os.path.join(real, "")):  # above: what lies beside the tree is not in it
            tree.links[link] = real
        else:
            _scan(path, link, tree, seen, waiting)
    return tree


def _scan(path, name, tree, seen, waiting):
    """Add the folder at `path` and all below to `tree`; links to folders to `waiting`, for later."""
    todo = [(path, name)]
    while todo:
        path, name = todo.pop()
        if name.count("/") >= MAX_DEPTH:
            raise _too_deep(tree.source, name.split("/")[-1])
        tree.folders[name] = []
        try:
            status = os.stat(path)
            key = status.st_dev, status.st_ino
            if seen.setdefault(key, name) != name and status.st_ino:  # 0 where a file system has no numbers
                tree.links[name] = seen[key]
                continue
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"folder {str(path)!r} cannot be read: {error.strerror}.") from error
        below = []
        for entry in entries:
            child = f"{name}/{entry.name}" if name else entry.name
            if _is_folder(entry):
                if not _is_hidden(entry.name):
                    tree.folders[name].append(entry.name)
                    if entry.is_symlink():
                        tree.folders[child] = []
                        waiting.append(child)
                    else:
                        below.append((entry.path, child))
            elif is_image_name(child):
                tree.files[child] = (_size(entry),)
            elif not _is_hidden(entry.name):
                tree.others.append(child)
        todo += reversed(below)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # links that go round
        return False


def _size(entry):
    """-1 of what is no file, or a link to nothing: reading it says so."""
    try:
        return entry.stat().st_size if entry.is_file() else -1
    except OSError:
        return -1


def _too_deep(source, name):
    return InputError(
        f"{source!r} has more than {MAX_DEPTH} folders in each other, down to {name!r}: bring the pictures "
        "of a class into one."
    )


def _zip_tree(source, archive, archive_size):
    tree_files, members, others, folders = {}, {}, [], {"": []}
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise InputError(f"{source!r} is encrypted: unpack it with its password and give the folder.")
        # Some Windows programs write "\" into a .zip.
        parts = [part for part in member.filename.replace("\\", "/").split("/") if part not in ("", ".")]
        is_folder = member.filename.endswith(("/", "\\"))
        if not parts or any(map(_is_hidden, parts)):
            continue
        if len(parts) > MAX_DEPTH:
            raise _too_deep(source, parts[-1])
        above = ""
        for part in parts if is_folder else parts[:-1]:
            name = f"{above}/{part}" if above else part
            if name not in folders:
                folders[name] = []
                folders[above].append(part)
            above = name
        name = "/".join(parts)
        if is_folder:
            continue
        if not is_image_name(name):
            others.append(name)
            continue
        if name in members:
            raise InputError(f"{source!r} has two pictures called {name!r}: make it again with one of them.")
        tree_files[name] = (member.file_size, member.CRC)
        members[name] = member
    _check_members(source, members, archive_size)
    lock = threading.Lock()  # a ZipFile is not made for reading from several threads

    def content(name):
        file_type = stat.S_IFMT(members[name].external_attr >> 16)  # 0 where the .zip is no Unix program's
        if file_type not in (0, stat.S_IFREG):
            raise InputError(f"{name!r} is no regular file, but a link or a device: pack the picture itself.")
        return _unpacked(archive, members[name], lock)

    return Tree(source, folders, tree_files, content, others)


def _check_members(source, members, archive_size):
    """Refuse a .zip that is small and unpacks to more than anybody's pictures."""
    total, (least, times) = sum(member.file_size for member in members.values()), MAX_GROWTH
    if total > max(least, times * archive_size):
        raise InputError(
            f"{source!r} says that it unpacks to {total >> 30} GiB, more than {times} times its size: unpack "
            "it and give the folder, if you trust it."
        )
    end, before = 0, ""
    for member in sorted(members.values(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise InputError(
                f"{source!r} keeps {before!r} and {member.filename!r} in the same place: it is damaged, or a "
                "bomb. Make it again."
            )
        end, before = member.header_offset + 30 + member.compress_size, member.filename  # 30: a header


def _unpacked(archive, member, lock):
    """The bytes of a member of a .zip, unpacked as far as the size that it says, and no further."""
    if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with lock, archive.open(member) as file:
            return file.read(member.file_size)
    # zipfile unpacks a whole block of the others at once, of any size. So as stored ones:
    stored = copy.copy(member)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, member.compress_size
    del stored.CRC
    with lock, archive.open(stored) as file:
        packed = file.read(stored.file_size)
    if member.compress_type == zipfile.ZIP_BZIP2:
        data = bz2.BZ2Decompressor().decompress(packed, member.file_size)
    elif member.compress_type == zipfile.ZIP_LZMA:
        # A .zip has: version (2 bytes), length of the properties (2), the properties (5), data. What is
        # called "alone" has the properties, the size (8 bytes, all ones for unknown) and data.
        alone = packed[4:9] + b"\xff" * 8 + packed[9:]
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=2**28)
        data = unpacker.decompress(alone, member.file_size)
    else:
        raise InputError(
            f"{member.filename!r} is packed in a way that is not read here (number {member.compress_type}): "
            "unpack the .zip and give the folder."
        )
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return data


def _is_hidden(name):
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")
