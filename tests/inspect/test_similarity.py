"""Position similarity against tables whose similarity is known."""

import numpy as np
import pytest

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.inspect import position_similarity


def model(position, image_size=(6, 8), **options):
    return ViT("Nano/2", image_size, 3, width=16, num_heads=4, depth=1, position=position, **options)


def test_a_learned_table():
    vit = model("learned", registers=2)
    table = np.zeros((1, 13, 16))
    table[0, 0] = 9.0  # [CLS], which is no patch
    table[0, 1:, 0] = 1.0
    table[0, 1, :2] = [0.0, 2.0]
    table[0, 2, :2] = [3.0, 3.0]
    table[0, 12, 0] = -0.5
    vit.positions.table.assign(table)
    expected = np.ones((12, 12))
    expected[0] = expected[:, 0] = 0
    expected[1] = expected[:, 1] = np.sqrt(0.5)
    expected[11, 2:] = expected[2:, 11] = -1
    expected[0, 0] = expected[1, 1] = expected[11, 11] = 1
    expected[1, 11] = expected[11, 1] = -np.sqrt(0.5)
    expected[0, 11] = expected[11, 0] = 0
    found = position_similarity(vit)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_hot_shares_half_with_its_row_and_its_column():
    row, column = np.divmod(np.arange(12), 4)
    same = (row[:, None] == row).astype(float) + (column[:, None] == column)
    np.testing.assert_allclose(position_similarity(model("one_hot")), same / 2, atol=1e-6)


def test_sinusoidal_depends_on_the_distance_by_a_known_formula():
    frequencies = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    distance = np.arange(12)[:, None] - np.arange(12)
    expected = np.cos(distance[..., None] * frequencies).mean(-1)
    np.testing.assert_allclose(position_similarity(model("sinusoidal")), expected, atol=1e-6)


def test_coordinates_have_nothing_in_the_middle():
    found = position_similarity(model("coordinates", (6, 6)))
    assert np.all(found[4] == 0) and np.all(found[:, 4] == 0)
    np.testing.assert_allclose(found[0, 8], -1, atol=1e-6)  # opposite corners


@pytest.mark.parametrize("position", ["rotary2d", "relative", "none"])
def test_positions_without_a_table_are_refused_by_name(position):
    with pytest.raises(InputError, match=f"position='{position}' adds no encoding"):
        position_similarity(model(position))


@pytest.mark.parametrize("changes", [{"patch_bias": False}, {"norm_centre": False}])
def test_a_folded_model_is_refused(changes):
    with pytest.raises(InputError, match="folded"):
        position_similarity(model("learned", **changes))
