"""Data sets: the layouts that people have, the split, the fingerprint, and every bad input."""

import dataclasses
import shutil
import sys
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_vit.data import image_data as data_module
from keras_vit.data import sources
from keras_vit.data.image_data import load_data, suggest_image_size
from keras_vit.data.layout import natural
from keras_vit.errors import InputError


def picture(path, seed=0, size=(8, 8)):
    """Write a picture of noise and return its pixels."""
    x = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path)
    return x


def class_folders(root, classes=("cat", "dog"), count=5, size=(8, 8)):
    """`count` PNGs in each class; {name relative to root: pixels}."""
    return {
        f"{name}/{i}.png": picture(root / name / f"{i}.png", 100 * label + i, size)
        for label, name in enumerate(classes)
        for i in range(count)
    }


def zipped(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            name = prefix + file.relative_to(folder).as_posix()
            # Not `write`, which tidies names.
            archive.writestr(name + "/", "") if file.is_dir() else archive.writestr(name, file.read_bytes())
    return path


def check_pixels(data, pixels, prefix=""):
    """Each row is the picture of its name, and its label is the class in the name."""
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert len(split) == len(split.images) == len(split.names)
        for x, label, name in zip(split.images, split.labels, split.names, strict=True):
            np.testing.assert_array_equal(x, pixels[name.removeprefix(prefix)])
            assert data.labels[label] in name.split("/")


def assert_same(a, b):
    assert a.labels == b.labels
    for x, y in ((a.train, b.train), (a.test, b.test)):
        np.testing.assert_array_equal(x.images, y.images)
        np.testing.assert_array_equal(x.labels, y.labels)


# Layouts


def test_class_folders_are_split(tmp_path):
    pixels = class_folders(tmp_path, ("2", "10", "1"), count=5)
    data = load_data(tmp_path, image_size=8)
    assert data.labels == ["1", "2", "10"]
    assert (len(data.train), len(data.test)) == (12, 3)
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]
    assert sorted(data.train.names + data.test.names) == sorted(pixels)
    assert data.source == str(tmp_path) and data.skipped == []
    check_pixels(data, pixels)


def test_train_and_test_folders(tmp_path):
    train = class_folders(tmp_path / "Train", count=3)
    test = class_folders(tmp_path / "test", count=2)
    class_folders(tmp_path / "more", ("cat", "cow"), count=2)  # left out, whatever is in it
    data = load_data(tmp_path, image_size=8)
    assert data.val is None and data.choosing is data.test
    assert data.train.names == [f"Train/{name}" for name in train]
    assert data.test.names == [f"test/{name}" for name in test]
    assert data.labels == ["cat", "dog"]
    check_pixels(
        data, {f"Train/{k}": v for k, v in train.items()} | {f"test/{k}": v for k, v in test.items()}
    )


@pytest.mark.parametrize("name", ["val", "Valid", "VALIDATION"])
def test_val_beside_test_is_what_choices_are_made_by(tmp_path, name):
    class_folders(tmp_path / "train", count=3)
    class_folders(tmp_path / "test", count=2)
    two = load_data(tmp_path, image_size=8)
    class_folders(tmp_path / name, count=1)
    three = load_data(tmp_path, image_size=8)
    assert three.choosing is three.val and three.val.labels.tolist() == [0, 1]
    assert {file.split("/")[0] for file in three.val.names} == {name}
    assert three.val.images.shape == (2, 8, 8, 3)
    for part in ("train", "test"):
        assert getattr(three, part).names == getattr(two, part).names
        np.testing.assert_array_equal(getattr(three, part).images, getattr(two, part).images)
    assert three.fingerprint != two.fingerprint, "it decides, so another one is another set"
    next((tmp_path / name / "cat").iterdir()).write_bytes(b"no picture")
    refused(tmp_path, "1 of 12 pictures")
    with pytest.raises(InputError, match=r"class 'cat' .* has no val pictures left"):
        load_data(tmp_path, image_size=8, skip_bad=True)
    shutil.rmtree(tmp_path / name / "cat")
    refused(tmp_path, f"have different classes: only 'train' has 'cat'|only '{name}'")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Testing"])
def test_other_names_of_the_second_split(tmp_path, name):
    class_folders(tmp_path / "train", count=3)
    class_folders(tmp_path / name, count=1)
    data = load_data(tmp_path, image_size=8)
    assert data.test.names == [f"{name}/cat/0.png", f"{name}/dog/0.png"]


def test_train_alone_is_split(tmp_path):
    pixels = class_folders(tmp_path / "train", count=4)
    data = load_data(tmp_path, image_size=8, test_fraction=0.5)
    assert (len(data.train), len(data.test)) == (4, 4)
    check_pixels(data, pixels, "train/")


def test_train_can_be_a_class(tmp_path):
    class_folders(tmp_path, ("train", "car", "plane"), count=2)
    assert load_data(tmp_path, image_size=8).labels == ["car", "plane", "train"]


def test_leading_folders_nested_folders_and_what_is_passed_over(tmp_path):
    root = tmp_path / "a" / "b"
    pixels = class_folders(root, count=2)
    pixels["cat/x/y/0.png"] = picture(root / "cat/x/y/0.png", 7)
    picture(root / "preview.png")
    picture(root / "cat/.hidden.png")
    picture(root / ".cache/0.png")
    picture(tmp_path / "__MACOSX/a/0.png")
    (root / "dog/Thumbs.db").write_text("")
    (root / "readme.txt").write_text("")
    data = load_data(tmp_path, image_size=8)
    assert data.labels == ["cat", "dog"]
    assert sorted(data.train.names + data.test.names) == sorted(f"a/b/{name}" for name in pixels)
    check_pixels(data, pixels, "a/b/")


def test_a_link_to_a_folder_above_does_not_go_round(tmp_path):
    class_folders(tmp_path, count=2)
    (tmp_path / "cat/again").symlink_to(tmp_path)
    assert len(load_data(tmp_path, image_size=8).train) == 2


@pytest.mark.parametrize("prefix", ["", "pets/", "./"])
def test_a_zip_is_like_its_folder(tmp_path, prefix):
    pixels = class_folders(tmp_path / "f", ("2", "10"), count=6, size=(9, 12))
    path = zipped(tmp_path / "f", tmp_path / "f.zip", prefix)
    folder, archive = load_data(tmp_path / "f", image_size=6), load_data(str(path), image_size=6)
    assert_same(folder, archive)
    assert archive.labels == ["2", "10"] and len(archive.train) == 10
    assert archive.train.names == [prefix.removeprefix("./") + name for name in folder.train.names]
    assert set(folder.train.names) < set(pixels)


def test_a_zip_without_folder_entries_and_with_backslashes(tmp_path):
    pixels = class_folders(tmp_path / "f", count=3)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in pixels:
            archive.write(tmp_path / "f" / name, "set\\" + name.replace("/", "\\"))
    data = load_data(tmp_path / "w.zip", image_size=8)
    check_pixels(data, pixels, "set/")
    assert (len(data.train), len(data.test)) == (4, 2)


def test_many_pictures_in_threads_stay_in_order(tmp_path):
    pixels = class_folders(tmp_path, ("a", "b", "c"), count=40, size=(4, 4))
    seen = []
    data = load_data(tmp_path, image_size=4, progress=lambda done, total: seen.append((done, total)))
    check_pixels(data, pixels)
    assert data.train.names == sorted(data.train.names, key=natural)
    assert seen == sorted(seen) and seen[-1] == (120, 120) and len(seen) > 1


def test_a_large_set_is_a_memmap(tmp_path, monkeypatch):
    pixels = class_folders(tmp_path / "f", count=4)
    (tmp_path / "f/cat/1.png").write_bytes(b"no")
    small = load_data(tmp_path / "f", image_size=8, skip_bad=True)
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(data_module.tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(data_module, "IN_MEMORY", 100)
    large = load_data(tmp_path / "f", image_size=8, skip_bad=True)
    assert isinstance(large.train.images, np.memmap) and not isinstance(small.train.images, np.memmap)
    assert list(temporary.iterdir()) == []
    assert_same(small, large)
    check_pixels(large, pixels)


def test_a_set_larger_than_the_disk(tmp_path, monkeypatch):
    class_folders(tmp_path, count=2)
    monkeypatch.setattr(data_module, "IN_MEMORY", 100)
    monkeypatch.setattr(data_module.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=500))
    with pytest.raises(InputError, match=r"4 pictures of 8x8 take .* set TMPDIR to a larger disk"):
        load_data(tmp_path, image_size=8)


# The split and the fingerprint


def test_the_split_is_stratified_deterministic_and_follows_the_seed(tmp_path):
    class_folders(tmp_path, ("a", "b"), count=20, size=(2, 2))
    for i in range(2):
        picture(tmp_path / f"c/{i}.png", i, (2, 2))
    a, b, c = (load_data(tmp_path, 2, test_fraction=0.25, seed=s) for s in (1, 1, 2))
    for data in (a, c):
        assert np.bincount(data.train.labels).tolist() == [15, 15, 1]
        assert np.bincount(data.test.labels).tolist() == [5, 5, 1]
        assert not set(data.train.names) & set(data.test.names)
        assert len(set(data.train.names + data.test.names)) == 42
    assert (a.train.names, a.test.names, a.fingerprint) == (b.train.names, b.test.names, b.fingerprint)
    assert a.test.names != c.test.names and a.fingerprint != c.fingerprint
    # not the same positions in every class
    numbers = [{n.split("/")[1] for n in a.test.names if n.startswith(k)} for k in ("a/", "b/")]
    assert numbers[0] != numbers[1]


def test_a_class_keeps_one_picture_on_each_side(tmp_path):
    class_folders(tmp_path, count=3, size=(2, 2))
    for fraction, testing in ((0.01, 2), (0.99, 4)):
        data = load_data(tmp_path, 2, test_fraction=fraction)
        assert (len(data.train), len(data.test)) == (6 - testing, testing)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_fingerprint_tells_sets_apart(tmp_path, kind):
    def fingerprint(**options):
        source = tmp_path / "f"
        if kind == "zip":
            source = zipped(tmp_path / "f", tmp_path / "f.zip", "top/")
        return load_data(source, **{"image_size": 8, **options}).fingerprint

    class_folders(tmp_path / "f", count=5)
    first = fingerprint()
    assert len(first) == 16 and int(first, 16) >= 0
    assert fingerprint(image_size=(4, 6)) == fingerprint(skip_bad=True) == first
    assert fingerprint(test_fraction=0.5) != first  # other pictures are tested
    file = tmp_path / "f/cat/0.png"
    sound = file.read_bytes()
    file.write_bytes(sound + b"\0")
    longer = fingerprint()
    assert longer != first
    file.write_bytes(sound)
    assert fingerprint() == first
    file.rename(file.with_name("00.png"))
    assert fingerprint() not in (first, longer)
    file.with_name("00.png").rename(file)
    (tmp_path / "f/cat").rename(tmp_path / "f/cow")
    assert fingerprint() != first


def test_the_crc_in_a_zip_counts(tmp_path):
    class_folders(tmp_path / "f", count=2)
    first = load_data(zipped(tmp_path / "f", tmp_path / "a.zip"), 8).fingerprint
    file = tmp_path / "f/cat/0.png"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")  # the same size; Pillow does not look at the last byte
    assert load_data(zipped(tmp_path / "f", tmp_path / "b.zip"), 8).fingerprint != first


# The built-in ones


def test_digits():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    assert data.labels == [str(i) for i in range(10)] and data.source == "digits"
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.shape[1:] == (8, 8, 3)
    reference = load_digits()
    for split in (data.train, data.test):
        order = [int(name.removeprefix("digits/")) for name in split.names]
        expected = np.round(reference.images[order] * 255 / 16)
        np.testing.assert_array_equal(split.images, np.repeat(expected[..., None], 3, -1))
        np.testing.assert_array_equal(split.labels, reference.target[order])
    counts = np.bincount(reference.target)
    np.testing.assert_array_equal(np.bincount(data.test.labels), np.round(counts * 0.2))
    again, other = load_data("digits", image_size=16), load_data("digits", seed=1)
    assert again.test.names == data.test.names and again.fingerprint == data.fingerprint
    assert again.test.images.shape[1:] == (16, 16, 3)
    assert other.test.names != data.test.names and other.fingerprint != data.fingerprint


def fake_keras(monkeypatch, load):
    cifar10 = types.SimpleNamespace(load_data=load)
    keras = types.SimpleNamespace(datasets=types.SimpleNamespace(cifar10=cifar10))
    monkeypatch.setitem(sys.modules, "keras", keras)


@pytest.mark.parametrize("channels_first", [False, True])
def test_cifar10_keeps_its_split(monkeypatch, channels_first):
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    given = x.transpose(0, 3, 1, 2) if channels_first else x
    fake_keras(
        monkeypatch, lambda: ((given[:3], np.array([[9], [0], [4]])), (given[3:], np.array([[1], [2]])))
    )
    data = load_data("cifar10")
    np.testing.assert_array_equal(data.train.images, x[:3])
    np.testing.assert_array_equal(data.test.images, x[3:])
    assert data.train.labels.tolist() == [9, 0, 4] and data.test.labels.tolist() == [1, 2]
    assert [data.labels[i] for i in data.train.labels] == ["truck", "airplane", "deer"]
    assert data.train.names[0] == "cifar10/train/00000"


def test_cifar10_without_the_network(monkeypatch):
    def load():
        raise Exception("URL fetch failure on https://...: None -- timed out\nmore")

    fake_keras(monkeypatch, load)
    with pytest.raises(
        InputError, match=r"'cifar10' could not be .*timed out\).* network .* folder or \.zip"
    ):
        load_data("cifar10")


# The image size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), 8),
        ((13, 20), 14),
        ((16, 90), 16),
        ((17, 17), 32),
        ((50, 47), 32),
        ((48, 99), 64),
        ((64, 64), 64),
        ((65, 70), 224),
    ],
)
def test_suggested_sizes(tmp_path, size, expected):
    class_folders(tmp_path / "f", count=2, size=size)
    picture(tmp_path / "f/cat/2.png", size=(300, 300))  # the median does not care
    (tmp_path / "f/cat/3.png").write_bytes(b"nothing")
    assert suggest_image_size(tmp_path / "f") == expected
    assert suggest_image_size(zipped(tmp_path / "f", tmp_path / "f.zip")) == expected
    data = load_data(tmp_path / "f", skip_bad=True)
    assert data.train.images.shape[1:] == (expected, expected, 3)


def test_suggested_sizes_of_the_built_in_ones():
    assert (suggest_image_size("digits"), suggest_image_size("cifar10")) == (8, 32)


# Bad input


def refused(source, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load_data(source, **{"image_size": 8, **options})
    assert "\n" not in str(error.value)


def test_no_such_source(tmp_path):
    refused(
        tmp_path / "none", r"there is no '.*none': expected a folder .* built-in name: digits, cifar10\.$"
    )
    refused("digit", r"there is no 'digit': .* digits, cifar10\. Did you mean 'digits'\?")
    refused("", "there is no ''")
    refused("x" * 5000, "there is no 'xxx")
    refused(["digits"], "the data is a list: expected a folder")
    with pytest.raises(InputError, match="there is no 'cifar100'"):
        suggest_image_size("cifar100")


def test_files_that_are_no_set(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    refused(tmp_path / "a.csv", r"a\.csv' is neither a folder nor a \.zip: expected a folder")
    (tmp_path / "a.zip").write_text("x")
    refused(
        tmp_path / "a.zip", r"a\.zip' is not a sound \.zip \(File is not a zip file\): get or make it again"
    )
    class_folders(tmp_path / "f", count=2)
    path = zipped(tmp_path / "f", tmp_path / "cut.zip")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, r"cut\.zip' is not a sound \.zip")


def test_an_encrypted_zip(tmp_path):
    class_folders(tmp_path / "f", count=2)
    path = zipped(tmp_path / "f", tmp_path / "f.zip")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1  # the flag in the first entry of the directory
    path.write_bytes(raw)
    refused(path, r"f\.zip' is encrypted: unpack it")


def test_folders_without_classes(tmp_path):
    refused(tmp_path, "has no class folders: expected a folder with one subfolder per class")
    picture(tmp_path / "0.png")
    refused(tmp_path, "has pictures but no class folders: put the pictures of each class")
    picture(tmp_path / "cat/0.png")
    refused(tmp_path, "has only one class, 'cat': a classifier needs two or more")
    picture(tmp_path / "dog/0.png")
    picture(tmp_path / "dog/1.png")
    refused(tmp_path, "class 'cat' of .* has a single picture")
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow/0.txt").write_text("")
    refused(tmp_path, r"no pictures \(\.jpg .*\) in 'cow' of")


def test_splits_that_do_not_fit(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / "flat" / split / "0.png")
    refused(tmp_path / "flat", "flat/train' has pictures but no class folders")
    class_folders(tmp_path / "test_only/test")
    refused(tmp_path / "test_only", "has a folder 'test' but no 'train'")
    class_folders(tmp_path / "f/train", ("cat", "cow"), count=1)
    class_folders(tmp_path / "f/val", ("cat", "dog", "eel"), count=1)
    refused(tmp_path / "f", "different classes: only 'train' has 'cow'; only 'val' has 'dog', 'eel'")


def test_arguments_out_of_range(tmp_path):
    for fraction in (0, 1, -0.1, "a", True):
        refused(tmp_path, "test_fraction must be between 0 and 1", test_fraction=fraction)
    refused(tmp_path, "seed must be an integer", seed=-1)
    refused(tmp_path, "image_size must be a positive integer", image_size=0)


def spoil(root, names):
    for name in names:
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_pictures(tmp_path, kind):
    pixels = class_folders(tmp_path / "f", count=20)
    before = load_data(tmp_path / "f", image_size=8)
    bad = [f"cat/{i}.png" for i in range(3)] + [f"dog/{i}.png" for i in range(4)]
    spoil(tmp_path / "f", bad)
    source = tmp_path / "f" if kind == "folder" else zipped(tmp_path / "f", tmp_path / "f.zip")

    with pytest.raises(InputError) as error:
        load_data(source, image_size=8)
    message = str(error.value)
    assert message.startswith(f"7 of 40 pictures in '{source}' cannot be used: ")
    assert sum(f"'{name}' is truncated" in message for name in bad) == 5
    assert "; and 2 more. " in message and "--skip-bad" in message and "\n" not in message

    data = load_data(source, image_size=8, skip_bad=True)
    assert sorted(data.skipped) == bad
    # What is left is in the split that it was in.
    assert data.train.names == [name for name in before.train.names if name not in bad]
    assert data.test.names == [name for name in before.test.names if name not in bad]
    check_pixels(data, pixels)


def test_the_fingerprint_does_not_depend_on_skipping(tmp_path):
    class_folders(tmp_path, count=6)
    whole = load_data(tmp_path, image_size=8)
    file = tmp_path / "cat/0.png"
    file.write_bytes(bytes(file.stat().st_size))
    skipping = load_data(tmp_path, image_size=8, skip_bad=True)
    assert skipping.skipped == ["cat/0.png"] and len(skipping.train) + len(skipping.test) == 11
    assert skipping.fingerprint == whole.fingerprint


def test_a_class_that_loses_all_its_pictures(tmp_path):
    class_folders(tmp_path, count=4)
    spoil(tmp_path, [f"dog/{i}.png" for i in range(4)])
    refused(tmp_path, "class 'dog' of .* has no test pictures left without its bad ones", skip_bad=True)


def test_a_damaged_member_of_a_zip(tmp_path):
    pixels = class_folders(tmp_path / "f", count=3)
    path = zipped(tmp_path / "f", tmp_path / "f.zip")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"dog/1.png") + 80] ^= 255  # in its pixels: the checksum no longer fits
    path.write_bytes(raw)
    refused(path, r"1 of 6 pictures in .* cannot be used: 'dog/1\.png' cannot be read: Bad CRC-32")
    data = load_data(path, image_size=8, skip_bad=True)
    assert data.skipped == ["dog/1.png"]
    check_pixels(data, pixels)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    class_folders(tmp_path, count=3)
    (tmp_path / "dog/3.png").symlink_to(tmp_path / "gone.png")
    refused(tmp_path, r"'dog/3\.png' cannot be read: No such file")
    (tmp_path / "dog/3.png").unlink()
    monkeypatch.setattr(sources, "MAX_FILE", (tmp_path / "dog/0.png").stat().st_size - 1)
    refused(tmp_path, r"6 of 6 .*'cat/0\.png' is larger than 0 MiB: expected a picture")


def test_the_results_are_frozen():
    data = load_data("digits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.labels = []
