"""The learning-rate finder: rates grow, a loss that explodes ends it, the steepest fall is found."""

import math

import numpy as np
import pytest
from thirds_data import thirds, tiny_recipe

from keras_vit.errors import InputError
from keras_vit.training.methods import learning_rate_finder
from keras_vit.training.methods.learning_rate_finder import draw_rates, find_rate


def test_rates_grow_until_the_loss_explodes(tmp_path):
    found = find_rate(thirds(), tiny_recipe(), steps=40, lowest=1e-5, highest=100.0)
    ratios = np.diff(np.log(found.rates))
    np.testing.assert_allclose(ratios, math.log(1e7) / 39, rtol=1e-6)
    assert found.exploded and len(found.rates) == len(found.losses) < 40
    means = [np.mean(found.losses[max(0, i - 2) : i + 1]) for i in range(len(found.losses))]
    assert [mean <= 2 * found.losses[0] for mean in means] == [True] * (len(means) - 1) + [False]
    assert found.rates[0] < found.best <= found.lowest < found.rates[-1]
    draw_rates(found, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"


def test_the_steepest_fall_is_where_it_is():
    rates = np.geomspace(1e-6, 1, 100).tolist()
    losses = [2 - 1 / (1 + (1e-3 / rate) ** 2) + 5 * max(0, math.log10(rate) + 1) for rate in rates]
    smooth = learning_rate_finder._smoothed([*losses[:-1], math.nan])
    assert np.isfinite(smooth).all()
    assert learning_rate_finder._steepest(rates, smooth) == pytest.approx(1e-3, rel=0.2)
    assert learning_rate_finder._steepest(rates, sorted(smooth)) is None, "a loss that only grows"


def test_bad_input():
    with pytest.raises(InputError, match=r"rates from 0\.1 to 0\.1 do not grow"):
        find_rate(thirds(), tiny_recipe(), lowest=0.1, highest=0.1)
    with pytest.raises(InputError, match="5 steps are too few"):
        find_rate(thirds(), tiny_recipe(), steps=5)
