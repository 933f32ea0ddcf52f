"""The picture grid of an augmentation policy: what stands in it, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from keras_vit.errors import InputError
from keras_vit.training.augmentation_grid import GAP, LINE, SIDE, _label, draw_augmentation

CLASSES = ["red", "green", "blue"]


def pictures():
    """A red, a green and a blue picture of 8 x 8, each with a white left half."""
    images = np.zeros((3, 8, 8, 3), "uint8")
    for channel in range(3):
        images[channel, ..., channel] = 200
    images[:, :, :4] = 255
    return images


def colour_at(image, row, column, x, y):
    """The colour at (x, y), from 0 to 1, in the cell of square pictures."""
    left, top = (
        GAP + column * (SIDE + GAP) + x * SIDE,
        GAP + 2 * LINE + row * (SIDE + 2 * LINE + GAP) + y * SIDE,
    )
    return image[int(top * 150), int(left * 150)].tolist()


def test_the_grid_shows_the_originals_and_what_each_step_does(tmp_path):
    path = tmp_path / "made" / "grid.png"
    columns = draw_augmentation(pictures(), np.arange(3), CLASSES, "strong", path)
    steps = ["original", "crop", "mirror", "RandAugment", "erasing", "MixUp", "CutMix"]
    assert list(columns) == [*steps, *(f"strong, {i} of 3" for i in (1, 2, 3))]
    image = np.asarray(Image.open(path).convert("RGB"))
    for row, colour in enumerate(([200, 0, 0], [0, 200, 0], [0, 0, 200])):
        assert colour_at(image, row, 0, 0.25, 0.5) == [255, 255, 255]
        assert colour_at(image, row, 0, 0.75, 0.5) == colour
        assert colour_at(image, row, 2, 0.25, 0.5) == colour  # mirrored
        for column, (shown, _) in enumerate(columns.values()):
            wanted = np.round(shown[row, 5, 2])
            assert colour_at(image, row, column, 2.5 / 8, 5.5 / 8) == wanted.tolist()


def test_the_same_seed_draws_the_same_grid(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_augmentation(pictures(), np.arange(3), CLASSES, "crop", tmp_path / f"{name}.png", seed)
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_a_mixed_label_names_its_classes_by_share():
    assert _label(np.array([0.0, 1.0, 0.0]), CLASSES) == "green"
    assert _label(np.array([0.25, 0.0, 0.75]), CLASSES) == "blue 75%\nred 25%"
    assert _label(np.array([1.0]), ["a very long name of a class"]) == "a very long …"


@pytest.mark.parametrize(
    ("policy", "path", "count", "message"),
    [
        ("strong", "grid.txt", 3, r"grid.txt' names no picture that can be drawn: end it in one of .png"),
        ("wild", "grid.png", 3, r"unknown augmentation 'wild': the known ones are none"),
        ("crop", "grid.png", 0, r"0 pictures given: from 1 to 32"),
    ],
)
def test_it_refuses(tmp_path, policy, path, count, message):
    with pytest.raises(InputError, match=message):
        draw_augmentation(pictures()[:count], np.arange(count), CLASSES, policy, tmp_path / path)
    assert list(tmp_path.iterdir()) == []
