"""The picture of reconstructions: which pixels are in its three rows."""

import numpy as np
import pytest
from PIL import Image
from random_weights import randomize

from keras_vit import MaskedViT, ViT
from keras_vit.errors import InputError
from keras_vit.inspect.reconstructions import COVER, draw_reconstructions
from keras_vit.losses import MaskedReconstruction

PREPROCESSING = {"mean": [0.2, 0.5, 0.6], "std": [0.5, 0.25, 0.4]}


def model(normalise=False, **changes):
    shape = {"width": 8, "depth": 1, "num_heads": 2, "mlp_width": 8, "patch_size": (4, 2)}
    encoder = ViT("Nano/2", (8, 6), None, preprocessing=PREPROCESSING, **shape, **changes)
    return randomize(MaskedViT(encoder, 0.5, reconstruction=MaskedReconstruction(normalise)))


def pictures(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 6, 3), "uint8")


def normalised(pixels):
    return (pixels.astype("float32") / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]


def rows(figure):
    """The arrays of the three rows, cut into pictures [B, 8, 6, 3]; there is one column between two."""
    strips = [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes]
    assert len(strips) == 3
    for strip in strips:
        assert (strip[:, 6::7] == 255).all()
    return [np.stack([s[:, left : left + 6] for left in range(0, s.shape[1], 7)]) for s in strips]


def test_the_rows_are_the_pictures_what_is_seen_of_them_and_what_is_predicted(tmp_path):
    masked, pixels = model(), pictures()
    figure = draw_reconstructions(masked, pixels, tmp_path / "new" / "out.png")
    original, seen, predicted = rows(figure)
    np.testing.assert_array_equal(original, pixels)
    _, whole, mask = masked.reconstruct(normalised(pixels).astype("float32"))
    hidden = np.broadcast_to(mask.reshape(-1, 2, 3).repeat(4, 1).repeat(2, 2)[..., None], pixels.shape)
    assert hidden.mean() == 0.5
    np.testing.assert_array_equal(seen, np.where(hidden, COVER, pixels))
    np.testing.assert_array_equal(predicted[~hidden], pixels[~hidden])
    expected = np.clip((whole * PREPROCESSING["std"] + PREPROCESSING["mean"]) * 255, 0, 255)
    np.testing.assert_allclose(predicted, expected, atol=0.51)
    assert (predicted[hidden] != pixels[hidden]).mean() > 0.9
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["original", "50% hidden", "predicted"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.png"]
    drawn = np.asarray(Image.open(tmp_path / "new" / "out.png").convert("RGB"))
    assert drawn.std() > 20


def test_normalised_floats_and_padded_pictures_are_drawn_alike():
    masked, pixels = model(), pictures()
    for a, b in zip(
        rows(draw_reconstructions(masked, normalised(pixels).astype("float32"))),
        rows(draw_reconstructions(masked, pixels)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    padded = {"image": pixels, "patch_mask": np.array([[1, 1, 0, 1, 1, 0]] * 3, "float32")}
    original, seen, _ = rows(draw_reconstructions(model(patch_mask=True), padded))
    covered = (seen == COVER).all(-1) & (original != COVER).any(-1)
    assert covered[:, :, :4].mean() == 0.5 and not covered[:, :, 4:].any()


def test_what_the_model_was_given_is_said():
    figure = draw_reconstructions(model(normalise=True), pictures())
    assert "mean and contrast of the hidden patches are given" in figure.axes[2].get_xlabel()
    assert draw_reconstructions(model(), pictures()).axes[2].get_xlabel() == ""


def test_drawing_leaves_pyplot_alone():
    import matplotlib

    before = matplotlib.rcParams["backend"]
    draw_reconstructions(model(), pictures())
    assert matplotlib.rcParams["backend"] == before


def test_what_cannot_be_drawn(tmp_path):
    masked = model()
    for make, message in (
        (lambda: draw_reconstructions(masked, pictures(), tmp_path / "out.txt"), "names no picture"),
        (lambda: draw_reconstructions(masked.encoder, pictures()), "expected a MaskedViT, not ViT"),
        (lambda: draw_reconstructions(masked, pictures(0)), "0 pictures given: from 1 to 64"),
        (lambda: draw_reconstructions(masked, pictures(65)), "65 pictures given"),
        (lambda: draw_reconstructions(masked, pictures()[:, :4]), r"not \[3, 4, 6, 3\]"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    assert list(tmp_path.iterdir()) == []
