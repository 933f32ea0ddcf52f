"""Packed sets: the same pictures as their source, read by TensorFlow too, and every kind of damage."""

import json
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit import cli
from keras_vit.data import records
from keras_vit.data.image_data import load_data, suggest_image_size
from keras_vit.data.packed import is_packed
from keras_vit.data.packing import pack
from keras_vit.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 12 pictures of noise, PNG and JPEG, of several sizes."""
    root = tmp_path_factory.mktemp("data") / "set"
    random = np.random.default_rng(0)
    for name in ("2", "10", "cat"):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 256, (8 + i % 3, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / (f"{i}.png" if i % 2 else f"{i}.jpg"))
    return root


@pytest.fixture
def packed(folder, tmp_path):
    pack(folder, tmp_path / "packed", shards=2)
    return tmp_path / "packed"


def assert_same(a, b):
    assert a.labels == b.labels
    for x, y in ((a.train, b.train), (a.test, b.test)):
        assert x.names == y.names
        np.testing.assert_array_equal(x.images, y.images)
        np.testing.assert_array_equal(x.labels, y.labels)


def examples(path):
    """What TensorFlow reads of a shard, checksums checked."""
    kinds = {"image": tf.string, "label": tf.int64, "name": tf.string, "place": tf.int64}
    form = {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    return [tf.io.parse_single_example(x, form) for x in tf.data.TFRecordDataset(str(path))]


# The format


def test_tensorflow_reads_what_is_written(tmp_path):
    values = [
        {"image": b"\xff" * n, "label": -3 if n else 2**40, "name": b"x", "place": n} for n in (0, 1, 70000)
    ]
    with open(tmp_path / "a", "wb") as file:
        for value in values:
            records.write_record(file, records.to_example(value))
    assert [{k: v.numpy() for k, v in x.items()} for x in examples(tmp_path / "a")] == values


def test_what_tensorflow_writes_is_read(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for i in range(3):
            features = tf.train.Features(
                feature={
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"abc" * i])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i, 7])),
                    "weight": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
                }
            )
            writer.write(tf.train.Example(features=features).SerializeToString())
    with open(tmp_path / "a", "rb") as file:
        found = list(records.read_records(file))
        for offset, data in found:
            file.seek(offset)
            assert file.read(len(data)) == data
    assert [records.from_example(data) for _, data in found] == [
        {"image": b"abc" * i, "label": i} for i in range(3)
    ]
    assert records.from_example(b"\xff\xff") == {}


# The same pictures


def test_a_packed_set_is_its_source(folder, tmp_path):
    for source in (folder, zipped(folder, tmp_path / "set.zip")):
        whole = load_data(source, image_size=8)
        made = pack(source, tmp_path / "packed", shards=4)
        data = load_data(tmp_path / "packed", image_size=8)
        assert_same(data, whole)
        assert data.fingerprint == whole.fingerprint and data.source == str(tmp_path / "packed")
        assert made["shards"] == {"train": [8, 8, 7, 7], "test": [2, 2, 1, 1]} and made["skipped"] == []
        assert suggest_image_size(tmp_path / "packed") == suggest_image_size(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "set.zip"], (
        "nothing else stays behind"
    )


def test_a_packed_set_keeps_val(folder, tmp_path):
    parts = tmp_path / "parts"
    for part in ("train", "test", "val"):
        shutil.copytree(folder, parts / part)
    whole = load_data(parts, image_size=8)
    made = pack(parts, tmp_path / "packed", shards=2)
    assert list(made["shards"]) == ["train", "test", "val"] and sum(made["shards"]["val"]) == len(whole.val)
    data = load_data(tmp_path / "packed", image_size=8)
    assert_same(data, whole)
    assert data.val.names == whole.val.names and data.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(data.val.images, whole.val.images)


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    return path


def test_the_files_go_in_as_they_are_and_the_classes_mixed(folder, packed):
    shards = [examples(packed / f"train-0000{i}-of-00002.tfrecord") for i in range(2)]
    for shard in shards:
        assert {int(x["label"]) for x in shard} == {0, 1, 2}
        assert [int(x["label"]) for x in shard] != sorted(int(x["label"]) for x in shard)
        for x in shard:
            assert x["image"].numpy() == (folder / x["name"].numpy().decode()).read_bytes()


def test_resized_pictures_are_another_set(folder, tmp_path):
    pack(folder, tmp_path / "a", image_size=(4, 6))
    whole, small = load_data(folder, image_size=(4, 6)), load_data(tmp_path / "a", image_size=(4, 6))
    assert_same(small, whole)
    pack(folder, tmp_path / "b", image_size=4)
    assert len({whole.fingerprint, small.fingerprint, load_data(tmp_path / "b").fingerprint}) == 3
    assert load_data(tmp_path / "b").train.images.shape == (30, 4, 4, 3)
    assert examples(tmp_path / "a" / "test-00000-of-00006.tfrecord")[0]["image"].numpy()[:4] == b"\x89PNG"


def test_built_in_sets_and_packed_ones_can_be_packed(tmp_path):
    pack("digits", tmp_path / "a", shards=1)
    pack(tmp_path / "a", tmp_path / "b", shards=3, seed=1)
    digits = load_data("digits")
    for name in "ab":
        data = load_data(tmp_path / name)
        assert_same(data, digits)
        assert data.fingerprint == digits.fingerprint


@pytest.mark.slow
def test_two_processes_pack_and_batch_alike(folder, tmp_path):
    program = """
import hashlib, sys
from keras_vit import ViT
from keras_vit.training import load_data, recipe
from keras_vit.data.packing import pack
from keras_vit.data.pipeline import training_batches

pack(sys.argv[1], sys.argv[2], shards=2, seed=3)
chosen = recipe("thumbnails", batch_size=8, augment="affine", seed=3)
model, data = ViT("Nano/2", image_size=8, num_classes=3), load_data(sys.argv[2], image_size=8)
for images, labels in training_batches(data.train, model, chosen, 0, 2):
    print(hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program, folder, tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for name in "ab"
    ]
    assert said[0] == said[1] and len(set(said[0])) == 8
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    pack(folder, tmp_path / "c", shards=2, seed=4)
    shard = "train-00000-of-00002.tfrecord"
    assert (tmp_path / "a" / shard).read_bytes() != (tmp_path / "c" / shard).read_bytes()


def test_packing_imports_no_tensorflow(folder, tmp_path):
    program = (
        "import sys; from keras_vit.data.packing import pack; "
        "from keras_vit.data.image_data import load_data; "
        f"pack({str(folder)!r}, {str(tmp_path / 'a')!r}); load_data({str(tmp_path / 'a')!r}); "
        "print('tensorflow' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


# Damage


def refused(source, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load_data(source, **{"image_size": 8, **options})
    assert "\n" not in str(error.value)


def starts(path):
    """Where each record of a shard starts."""
    with open(path, "rb") as file:
        return [offset - 12 for offset, _ in records.read_records(file)]


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path, at: flip(path, at + 50), "its checksum is wrong"),
        (lambda path, at: flip(path, at + 1), "the checksum of its length is wrong"),
        (lambda path, at: path.write_bytes(path.read_bytes()[: at + 40]), "the file is cut short"),
        (lambda path, at: path.write_bytes(path.read_bytes()[: at + 3]), "the file is cut short"),
        (lambda path, at: path.write_bytes(path.read_bytes()[:at]), "the file ends here"),
    ],
)
def test_a_damaged_shard(packed, harm, why):
    whole = load_data(packed, image_size=8)
    path = packed / "train-00001-of-00002.tfrecord"
    names = [x["name"].numpy().decode() for x in examples(path)]
    harm(path, starts(path)[11])
    refused(
        packed,
        rf"train-00001-of-00002\.tfrecord' is damaged at record 12 of 15 \({why}\): pack the set again; "
        r"--skip-bad .* leaves out the rest of this shard, 4 pictures\.",
    )
    data = load_data(packed, image_size=8, skip_bad=True)
    assert data.skipped == [f"train-00001-of-00002.tfrecord, record {i}" for i in range(12, 16)]
    assert data.train.names == [name for name in whole.train.names if name not in names[11:]]
    kept = [whole.train.names.index(name) for name in data.train.names]
    np.testing.assert_array_equal(data.train.images, whole.train.images[kept])
    np.testing.assert_array_equal(data.train.labels, whole.train.labels[kept])
    assert data.fingerprint == whole.fingerprint and len(data.test) == 6


def test_a_shard_that_is_not_there(packed):
    (packed / "test-00000-of-00002.tfrecord").unlink()
    refused(packed, r"test-00000-of-00002\.tfrecord' is damaged at record 1 of 3 \(No such file")
    assert len(load_data(packed, image_size=8, skip_bad=True).skipped) == 3


def test_a_class_that_is_lost(folder, tmp_path):
    pack(folder, tmp_path / "a", shards=1)
    path = tmp_path / "a" / "train-00000-of-00001.tfrecord"
    flip(path, starts(path)[1] + 50)
    refused(tmp_path / "a", "class '.*' of .* has no train pictures left without its damaged", skip_bad=True)


def rewrite(path, change):
    """Write the records of a shard anew, with sound checksums, after `change(list of their values)`."""
    with open(path, "rb") as file:
        values = [records.from_example(data) for _, data in records.read_records(file)]
    change(values)
    with open(path, "wb") as file:
        for value in values:
            records.write_record(file, records.to_example(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v[2].update(label=3),
            r"record 3 of '.*00000-of.*' has the label 3, .* 3 classes, 0 to 2: pack",
        ),
        (lambda v: v[2].update(label=-1), "has the label -1"),
        (lambda v: v[0].pop("place"), "record 1 of .* has no place: it was not made by keras-vit pack"),
        (lambda v: v[0].update(image=3, label=b""), "has no image and no label"),
        (lambda v: v.append(dict(v[0])), r"has 16 records, and dataset\.json says 15"),
        (lambda v: v[1].update(place=v[0]["place"]), "two shards of .* hold the same pictures"),
    ],
)
def test_records_that_do_not_belong(packed, change, message):
    rewrite(packed / "train-00000-of-00002.tfrecord", change)
    for skip_bad in (False, True):
        refused(packed, message, skip_bad=skip_bad)


def test_a_record_that_is_no_example(packed):
    path = packed / "train-00000-of-00002.tfrecord"
    with open(path, "r+b") as file:
        records.write_record(file, b"\xff" * (starts(path)[1] - 16))
    refused(packed, "record 1 of .* has no image and no label and no name and no place")


def test_a_picture_that_is_none(packed):
    rewrite(packed / "train-00000-of-00002.tfrecord", lambda values: values[0].update(image=b"no"))
    refused(packed, "1 of 36 pictures in .* cannot be used: .* is not a picture")
    assert len(load_data(packed, image_size=8, skip_bad=True).train) == 29


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"dataset\.json is not valid JSON .*: pack the set again"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 2, "labels": []}', "made by a newer version of keras_vit"),
        ("[]", "is damaged"),
        ('{"format": "1"}', "is damaged"),
    ],
)
def test_a_damaged_dataset_json(packed, text, message):
    (packed / "dataset.json").write_text(text)
    refused(packed, message)


def test_an_absurd_length_is_not_believed(packed):
    path = packed / "train-00000-of-00002.tfrecord"
    length = struct.pack("<Q", 2**60)
    raw = path.read_bytes()
    path.write_bytes(length + records._checksum(length) + raw[12:])
    refused(packed, r"damaged at record 1 of 15 \(the file is cut short\)")


# Packing what cannot be packed


def test_bad_pictures_are_not_packed(folder, tmp_path):
    source = tmp_path / "set"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(source / name / f"{i}.png")
    (source / "b" / "2.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"1 of 10 pictures in .*'b/2\.png' is not a picture.*--skip-bad"):
        pack(source, tmp_path / "packed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    made = pack(source, tmp_path / "packed", skip_bad=True)
    assert made["skipped"] == ["b/2.png"]
    data, whole = load_data(tmp_path / "packed"), load_data(source, skip_bad=True)
    assert_same(data, whole)
    assert data.fingerprint == whole.fingerprint and data.skipped == []


def test_places_that_are_taken(folder, tmp_path):
    with pytest.raises(InputError, match="is there and is no packed set: use another --out"):
        pack(folder, folder)
    with pytest.raises(InputError, match=r"lies in .* where it would be a class"):
        pack(folder, folder / "packed")
    with pytest.raises(InputError, match="shards must be a positive integer, not 0"):
        pack(folder, tmp_path / "a", shards=0)
    assert list(tmp_path.iterdir()) == []
    pack(folder, tmp_path / "a", shards=3)
    pack(folder, tmp_path / "a", shards=1)  # a packed set is replaced
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["keras-vit", "pack", str(folder), "--out", str(tmp_path / "a"), "--shards", "2"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "30 train pictures in 2 shards, 6 test pictures in 2 shards, 3 classes" in capsys.readouterr().err
    assert json.loads((tmp_path / "a" / "dataset.json").read_text())["labels"] == ["2", "10", "cat"]
    assert is_packed(tmp_path / "a") and not is_packed(folder) and not is_packed(None)
