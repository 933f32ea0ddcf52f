"""The pictures of models that take grey, many channels or raw pixels."""

import numpy as np
import pytest
from PIL import Image
from random_weights import randomize

from keras_vit import MaskedViT, ViT
from keras_vit.inspect import draw_explanation, draw_reconstructions, feature_names


def build(channels, **changes):
    return randomize(ViT("Nano/4", 8, 3, depth=1, channels=channels, **changes))


@pytest.mark.parametrize("channels", [1, 5])
def test_an_explanation_of_other_channels(channels, tmp_path):
    model = build(channels)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    found = draw_explanation(model, pixels, tmp_path / "why.png", labels=["a", "b", "c"])
    logits = np.asarray(model(pixels[None].astype("float32") / 127.5 - 1))[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert dict(found) == pytest.approx(dict(zip("abc", expected, strict=True)), abs=1e-5)
    assert Image.open(tmp_path / "why.png").size[0] > 100
    assert "head" in feature_names(model)


def test_a_file_in_colours_is_seen_grey(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(rgb).resize((12, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8)).convert("L").save(
        tmp_path / "grey.png"
    )
    model = build(1)
    found = [draw_explanation(model, tmp_path / name, tmp_path / "why.png") for name in ("a.png", "grey.png")]
    assert dict(found[0]) == pytest.approx(dict(found[1]), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_reconstructions_show_the_pictures_that_were_given(channels):
    """Also of a model that normalises them itself."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels), dtype=np.uint8)
    strips = []
    for include in (False, True):
        encoder = build(channels, include_preprocessing=include).rebuilt(num_classes=None)
        figure = draw_reconstructions(MaskedViT(encoder, seed=0), images)
        strips.append(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(*strips)
    seen = images[0][..., :3] if channels > 2 else np.repeat(images[0], 3, axis=2)
    np.testing.assert_allclose(strips[0][:, :8], seen, atol=1)
