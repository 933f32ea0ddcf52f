"""Folders and .zip files that would starve a reader, or fool it; what is passed over, and said of it."""

import io
import os
import signal
import socket
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_vit.data import sources
from keras_vit.data.decoding import decode
from keras_vit.data.image_data import load_data
from keras_vit.data.packing import pack
from keras_vit.data.sources import open_tree
from keras_vit.errors import InputError


def png(value=0):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def class_folders(root, classes=("cat", "dog"), count=3):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png(i))
    return root


@pytest.fixture(autouse=True)
def no_hang():
    """A read that waits for ever becomes an error."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)


# Regular files only


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def an_endless_device(path):
    path.symlink_to("/dev/zero")


def a_link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_link_to_itself(path):
    path.symlink_to(path.name)


def a_link_to_nothing(path):
    path.symlink_to("nothing")


KINDS = {
    a_pipe: "is no regular file, but a named pipe",
    a_socket: "is no regular file, but a socket",
    an_endless_device: "is no regular file, but a device",
    a_link_to_a_pipe: "is no regular file, but a named pipe",
    a_link_to_itself: "cannot be read: Too many levels of symbolic links",
    a_link_to_nothing: "cannot be read: No such file",
}


@pytest.mark.parametrize("make", KINDS)
def test_regular_files_alone(tmp_path, make):
    class_folders(tmp_path / "f")
    make(tmp_path / "f/cat/x.png")
    with pytest.raises(InputError, match=rf"1 of 7 pictures .*'cat/x.png' {KINDS[make]}"):
        load_data(tmp_path / "f", 8)
    data = load_data(tmp_path / "f", skip_bad=True)
    assert data.skipped == ["cat/x.png"] and len(data.train) + len(data.test) == 6
    with pytest.raises(InputError, match=KINDS[make]):
        decode(tmp_path / "f/cat/x.png")
    with pytest.raises(InputError, match=KINDS[make]):
        pack(tmp_path / "f", tmp_path / "packed")
    for name in ("x.zip", "no suffix"):
        make(tmp_path / name)
        with pytest.raises(InputError, match=f"{KINDS[make]}|there is no"):
            load_data(tmp_path / name)
        (tmp_path / name).unlink()
        (tmp_path / "pipe").unlink(missing_ok=True)


def test_shards_and_contents_of_a_packed_set_are_regular_files(tmp_path):
    pack(class_folders(tmp_path / "f"), tmp_path / "packed", shards=1)
    shard = tmp_path / "packed/train-00000-of-00001.tfrecord"
    content = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(InputError, match=r"at record 1 of 4 .*is no regular file, but a named pipe"):
        load_data(tmp_path / "packed")
    shard.unlink()
    # A record that says that it is larger than any picture; the checksum of its length is right.
    from keras_vit.data.records import _checksum

    length = struct.pack("<Q", 2**30)
    shard.write_bytes(length + _checksum(length) + content)
    os.truncate(shard, 2**31)  # takes no room on the disk
    with pytest.raises(InputError, match="it is larger than 512 MiB"):
        load_data(tmp_path / "packed")


# Each folder once


def test_folders_that_are_linked_to_each_other_are_read_once(tmp_path):
    class_folders(tmp_path, ("dog",))
    for i in range(7):
        (tmp_path / f"cat/d{i}").mkdir(parents=True)
        for j in range(7):
            (tmp_path / f"cat/d{i}/l{j}").symlink_to(f"../d{j}")
    (tmp_path / "cat/d0/x.png").write_bytes(png())
    (tmp_path / "cat/other").symlink_to("../dog")  # dogs are no cats
    (tmp_path / "cat/up").symlink_to(tmp_path.parent)
    (tmp_path / "cat/root").symlink_to("/")
    with open_tree(tmp_path) as tree:
        assert sorted(tree.files) == ["cat/d0/x.png", "dog/0.png", "dog/1.png", "dog/2.png"]
        assert tree.links["cat/other"] == "dog" and tree.links["cat/d1/l2"] == "cat/d2"
        assert tree.links["cat/root"] == "/"


def test_links_to_folders_elsewhere_are_followed_and_files_may_be_linked_twice(tmp_path):
    class_folders(tmp_path / "pool")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/cat").symlink_to("../pool/cat")
    (tmp_path / "set/dog").symlink_to(tmp_path / "pool/dog")
    (tmp_path / "pool/dog/again.png").symlink_to("0.png")
    data = load_data(tmp_path / "set", 8)
    assert sorted(data.train.names + data.test.names) == [
        *[f"cat/{i}.png" for i in range(3)],
        *[f"dog/{i}.png" for i in range(3)],
        "dog/again.png",
    ]


@pytest.mark.parametrize(
    ("link", "to"), [("cow", "dog"), ("train/cow", "dog"), ("test", "train"), ("cow", ".")]
)
def test_a_class_or_split_that_is_another_one_is_refused(tmp_path, link, to):
    class_folders(tmp_path / ("train" if "t" in link else ""))
    (tmp_path / link).symlink_to(to)
    with pytest.raises(
        InputError, match=rf"'{link}' of .* is a link to .*each folder is read once\. Delete the link"
    ):
        load_data(tmp_path, 8)


def test_folders_without_end(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "cat" / "/".join(["d"] * 70)).mkdir(parents=True)
    with pytest.raises(InputError, match="more than 64 folders in each other"):
        load_data(tmp_path, 8)


# .zip files


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members(count=3):
    return {f"{name}/{i}.png": png(i) for name in ("cat", "dog") for i in range(count)}


METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "LZMA": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_member_is_unpacked_as_far_as_it_says_and_no_further(tmp_path, method):
    path = zipped(tmp_path / "a.zip", {**members(), "cat/bomb.png": bytes(2**25)}, method)
    with open_tree(path) as tree:
        assert tree.read("cat/1.png") == png(1) and tree.read("cat/bomb.png") == bytes(2**25)
    raw = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # the unpacked size, in both headers
        start = raw.rindex(b"cat/bomb.png" if signature == b"PK\1\2" else signature)
        start = raw.rindex(signature, 0, start + 4)
        assert struct.unpack_from("<I", raw, start + at) == (2**25,)
        struct.pack_into("<I", raw, start + at, 1000)
    path.write_bytes(raw)
    with open_tree(path) as tree:
        tracemalloc.start()
        with pytest.raises(InputError, match=r"'cat/bomb.png' cannot be read: Bad CRC-32|Overlapped"):
            tree.read("cat/bomb.png")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (2**24 if method == zipfile.ZIP_LZMA else 2**20), "LZMA has a dictionary of 8 MiB"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_damage_of_every_kind_is_an_error_that_can_be_skipped(tmp_path, method):
    whole = zipped(tmp_path / "whole.zip", members(), method).read_bytes()
    start, random = whole.index(b"cat/1.png") + 9, np.random.default_rng(0)
    start += 9 * (method == zipfile.ZIP_LZMA)  # its properties
    for _ in range(30):
        raw = bytearray(whole)
        for at in random.integers(start, start + 60, 3):
            raw[at] ^= int(random.integers(1, 256))
        (tmp_path / "a.zip").write_bytes(raw)
        with pytest.raises(InputError, match=r"1 of 6 pictures .*'cat/1.png' cannot be read"):
            load_data(tmp_path / "a.zip", 8)
        assert load_data(tmp_path / "a.zip", 8, skip_bad=True).skipped == ["cat/1.png"]


def test_a_method_that_nobody_reads(tmp_path):
    raw = bytearray(zipped(tmp_path / "a.zip", members()).read_bytes())
    for signature, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        struct.pack_into("<H", raw, raw.index(signature) + at, 97)
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(InputError, match=r"1 of 6 pictures .*'cat/0.png'"):
        load_data(tmp_path / "a.zip", 8)
    assert load_data(tmp_path / "a.zip", 8, skip_bad=True).skipped == ["cat/0.png"]


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {**members(), "cat/9.png": bytes(2**20)}, zipfile.ZIP_DEFLATED)
    load_data(path, 8, skip_bad=True)
    monkeypatch.setattr(sources, "MAX_GROWTH", (2**19, 200))
    with pytest.raises(InputError, match="says that it unpacks to 0 GiB, more than 200 times its size"):
        load_data(path, 8, skip_bad=True)


def test_members_in_the_same_place_are_refused(tmp_path):
    raw = bytearray(zipped(tmp_path / "a.zip", members()).read_bytes())
    first, second = (raw.index(b"PK\1\2"), raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 4))
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]  # where its content is
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(InputError, match=r"keeps 'cat/0.png' and 'cat/1.png' in the same place"):
        load_data(tmp_path / "a.zip", 8)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cat/0.png", "cat\\0.png"):
            archive.writestr(name, png())
    with pytest.raises(InputError, match=r"has two pictures called 'cat/0.png'"):
        load_data(tmp_path / "a.zip", 8)
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped(
        tmp_path / "b.zip",
        {**members(), link: "../../etc/passwd", "../cat/x.png": png(), "/cat/y.png": png()},
    )
    data = load_data(tmp_path / "b.zip", 8, skip_bad=True)
    assert data.skipped == ["cat/link.png"] and "cat/y.png" in data.train.names + data.test.names
    assert len(data.train) + len(data.test) == 7
    with pytest.raises(InputError, match=r"'cat/link.png' is no regular file, but a link"):
        load_data(tmp_path / "b.zip", 8)
    zipped(tmp_path / "c.zip", {"a/" * 3000 + "x.png": png()})
    with pytest.raises(InputError, match="more than 64 folders in each other"):
        load_data(tmp_path / "c.zip", 8)


# What is passed over, and what is not


SUFFIXES = {
    "jpg": "JPEG",
    "jfif": "JPEG",
    "jpe": "JPEG",
    "JPEG": "JPEG",
    "pjp": "JPEG",
    "png": "PNG",
    "apng": "PNG",
}
SUFFIXES |= {
    "png": "PNG",
    "apng": "PNG",
    "bmp": "BMP",
    "dib": "DIB",
    "gif": "GIF",
    "webp": "WEBP",
    "avif": "AVIF",
    "tif": "TIFF",
}
SUFFIXES |= {"jp2": "JPEG2000", "j2k": "JPEG2000", "ppm": "PPM", "pnm": "PPM"}


def test_every_suffix_of_a_kind_that_is_read(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for suffix, kind in SUFFIXES.items():
            image.save(tmp_path / name / f"{suffix}.{suffix}", kind)
    data = load_data(tmp_path, 16)
    assert len(data.train) + len(data.test) == 2 * len(SUFFIXES) and data.ignored == {}
    for split in (data.train, data.test):
        difference = np.abs(split.images.astype(int) - [200, 100, 50]).max(axis=(1, 2, 3))
        assert difference.max() <= 6, dict(zip(split.names, difference, strict=True))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path, kind):
    root = class_folders(tmp_path / "f")
    for name in ("cat/1.HEIC", "cat/2.heic", "dog/x.eps", "notes", "dog/a.12345678901234", "dog/.hidden.txt"):
        (root / name).write_bytes(b"")
    (root / "outside.png").write_bytes(png())
    source = root
    if kind == "zip":
        files = [path for path in root.rglob("*") if path.is_file()]
        source = zipped(tmp_path / "f.zip", {p.relative_to(root).as_posix(): p.read_bytes() for p in files})
    assert load_data(source, 8).ignored == {".heic": 2, "": 2, ".eps": 1, ".png": 1}
    assert pack(source, tmp_path / "packed")["ignored"] == {".heic": 2, "": 2, ".eps": 1, ".png": 1}
    assert load_data(tmp_path / "packed", 8).ignored == {}


def test_a_class_of_other_files_alone_says_which(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow/1.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"no pictures \(\.jpg .*; found: \.heic\) in 'cow'"):
        load_data(tmp_path, 8)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "Train"),
        ("train", "TRAIN", "test"),
        ("train", "training"),
        ("train", "test", "Test"),
        ("train", "val", "valid"),
    ],
)
def test_two_folders_for_one_split_are_refused(tmp_path, names):
    for name in names:
        class_folders(tmp_path / name)
    with pytest.raises(
        InputError, match=r"has '\w+', '\w+', which mean the same: put the pictures of each class"
    ):
        load_data(tmp_path, 8)


@pytest.mark.parametrize("kind", ["folder", "zip", "packed"])
@pytest.mark.parametrize("name", ["two\nlines", "a\u2028b", "\u202egpj", "\x1b[2J", "\u200b", " "])
def test_class_names_that_break_labels_txt_are_refused_before_training(tmp_path, kind, name):
    class_folders(tmp_path / "f", ("cat", "dog" if kind == "packed" else name))
    source = tmp_path / "f"
    if kind == "zip":
        source = zipped(tmp_path / "f.zip", {f"{c}/{i}.png": png() for c in ("cat", name) for i in range(2)})
    if kind == "packed":
        import json

        source = tmp_path / "p"
        pack(tmp_path / "f", source, shards=1)
        contents = json.loads((source / "dataset.json").read_text())
        (source / "dataset.json").write_text(json.dumps({**contents, "labels": ["cat", name]}))
    with pytest.raises(InputError, match=r"has a class .*Rename it"):
        load_data(source, 8)


def test_class_names_that_cannot_be_decoded_are_refused(tmp_path):
    class_folders(tmp_path, ("cat", os.fsdecode(b"caf\xe9")))
    with pytest.raises(InputError, match=r"has a class 'caf\\udce9': expected text that UTF-8 can hold"):
        load_data(tmp_path, 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": "catdog"},
        {"suggested_image_size": True},
        {"suggested_image_size": 1e9},
        {"shards": {"train": [2**60], "test": [1]}},
        {"shards": {"train": [True], "test": [1]}},
        {"shards": {"train": [-1], "test": [1]}},
        {"shards": []},
        {"format": None},
    ],
)
def test_contents_of_a_packed_set_that_are_none(tmp_path, wrong):
    import json

    pack(class_folders(tmp_path / "f"), tmp_path / "p", shards=1)
    contents = json.loads((tmp_path / "p/dataset.json").read_text())
    (tmp_path / "p/dataset.json").write_text(json.dumps({**contents, **wrong}))
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"is damaged .*pack the set again|was made by a newer"):
            load_data(tmp_path / "p", 8, skip_bad=skip_bad)
