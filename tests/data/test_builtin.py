"""Sets of tensorflow-datasets: a real one, made here by its own tools; and every way not to have one."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_vit.data.image_data import load_data, suggest_image_size
from keras_vit.data.packing import pack
from keras_vit.errors import InputError

LABELS = ["cat", "dog", "owl"]
RANDOM = np.random.default_rng(0)
PIXELS = {
    split: RANDOM.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for split, n in (("train", 9), ("test", 4))
}


class OurPictures(tfds.core.GeneratorBasedBuilder):
    """Is known to tensorflow-datasets as our_pictures."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="whole"),
        tfds.core.BuilderConfig(name="train_only"),
        tfds.core.BuilderConfig(name="test_only"),
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=LABELS),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        kept = self.builder_config.name.removesuffix("_only")
        return {split: self._generate_examples(split) for split in PIXELS if kept in (split, "whole")}

    def _generate_examples(self, split):
        for i, image in enumerate(PIXELS[split]):
            yield i, {"image": image, "label": LABELS[i % 3]}


class OurNumbers(tfds.core.GeneratorBasedBuilder):
    """Has no pictures."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"number": np.int64}))

    def _split_generators(self, manager):
        return {}

    def _generate_examples(self):
        yield from ()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where tensorflow-datasets keeps what it makes."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))


def order(pixels):
    """Which of all pictures these are."""
    everything = np.concatenate(list(PIXELS.values()))
    return [int(np.flatnonzero((everything == x).all((1, 2, 3)))[0]) for x in pixels]


def test_a_set_keeps_its_split_and_its_pixels(tmp_path):
    data = load_data("tfds:our_pictures/whole")
    assert data.labels == LABELS and data.source == "tfds:our_pictures/whole"
    assert sorted(order(data.train.images)) == list(range(9))
    assert sorted(order(data.test.images)) == [9, 10, 11, 12]
    for split, first in ((data.train, 0), (data.test, 9)):
        assert split.labels.tolist() == [(i - first) % 3 for i in order(split.images)]
    assert (
        data.train.names[1] == "our_pictures/train/00001" and data.test.names[0] == "our_pictures/test/00000"
    )
    assert suggest_image_size("tfds:our_pictures/whole") == 8
    assert load_data("tfds:our_pictures/whole", image_size=4).fingerprint == data.fingerprint
    pack("tfds:our_pictures/whole", tmp_path / "packed", shards=2)
    again = load_data(tmp_path / "packed")
    np.testing.assert_array_equal(again.train.images, data.train.images)
    assert again.fingerprint == data.fingerprint and again.test.names == data.test.names


def test_a_set_without_a_test_split_is_divided():
    data, other = (load_data("tfds:our_pictures/train_only", test_fraction=0.4, seed=seed) for seed in (0, 1))
    assert (len(data.train), len(data.test)) == (6, 3)
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]
    assert sorted(order(data.train.images) + order(data.test.images)) == list(range(9))
    for split in (data.train, data.test):
        assert split.labels.tolist() == [i % 3 for i in order(split.images)]
    assert data.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("our_pictures/test_only", "has no split 'train', but 'test': use another set"),
        ("our_numbers", "has no image and no label, but 'number': use a set .* for image classification"),
        (
            "no_such_set",
            r"cannot be had from tensorflow-datasets \(.*no_such_set not found.*\): check the name",
        ),
        ("", r"'tfds:' cannot be had"),
    ],
)
def test_sets_that_cannot_be_used(name, message):
    with pytest.raises(InputError, match=message) as error:
        load_data(f"tfds:{name}")
    assert "\n" not in str(error.value)


def test_without_the_network(monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(OurPictures, "download_and_prepare", fail)
    with pytest.raises(
        InputError, match=r"cannot be had .*\(no route\): .* the network, which it needs the first"
    ):
        load_data("tfds:our_pictures/whole")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        InputError, match="'tfds:mnist' needs another package: pip install tensorflow-datasets"
    ):
        load_data("tfds:mnist")
