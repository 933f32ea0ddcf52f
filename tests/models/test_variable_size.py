"""One model, many sizes: what stands in the padding changes nothing, and each picture answers as alone."""

import numpy as np
import pytest
from random_weights import randomize

from keras_vit import ViT, ViTConfig
from keras_vit.config import POSITIONS, STEMS
from keras_vit.errors import InputError
from keras_vit.layers import pad_images

SIZES = ((16, 12), (8, 12), (12, 4))  # of three pictures; the canvas is the first
SHAPE = {"patch_size": 4, "width": 16, "depth": 2, "num_heads": 2, "mlp_width": 24, "patch_mask": True}
CASES = [
    *[{"position": name, "registers": 1} for name in POSITIONS],
    *[{"stem": name} for name in STEMS],
    *[{"pooling": name} for name in ("mean", "attention", None)],
    *[{"pooling": "mean", "position": "none", "attention": kind} for kind in ("soft", "relu")],
    {"attention": "hard", "top_k": 2, "pooling": None, "position": "rotary2d"},
    {"attention": "relu", "position": "relative", "pooling": "attention"},
    {"merge": (1, 3), "registers": 2},
    {"merge": (0, 2), "pooling": "mean"},
    {"qk_norm": True, "layer_scale": 0.1, "mlp": "swiglu", "distilled": True},
]


def build(case):
    num_classes = None if case.get("pooling", "cls") is None else 5
    return randomize(ViT(ViTConfig(**SHAPE, **case), image_size=(16, 12), num_classes=num_classes))


def pictures():
    random = np.random.default_rng(1)
    return [random.normal(size=(*size, 3)).astype("float32") for size in SIZES]


def real(answer, size, case):
    """Of one picture's answer, the part that belongs to real patches (all of it, but for all tokens)."""
    if case.get("pooling", "cls") is not None:
        return answer
    rows, columns = size[0] // 4, size[1] // 4
    return answer.reshape(-1, 3, answer.shape[-1])[:rows, :columns].reshape(rows * columns, -1)


def name_of(case):
    return "-".join(f"{key}={value}" for key, value in case.items())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_padded_picture_answers_as_it_does_alone(case):
    model, images = build(case), pictures()
    batch = pad_images(images, 4)
    together = np.asarray(model(batch))
    for image, answer in zip(images, together, strict=True):
        alone = np.asarray(model(pad_images([image], 4)))[0]
        np.testing.assert_allclose(real(answer, image.shape, case), alone, atol=1e-5)

    spoiled = {**batch, "image": batch["image"].copy()}
    spoiled["image"][1, 8:] = np.nan
    spoiled["image"][2, :, 4:] = np.inf
    spoiled["image"][2, 12:] = 7
    np.testing.assert_allclose(np.asarray(model(spoiled)), together, rtol=0, atol=1e-6)

    larger = {
        "image": np.pad(batch["image"], ((0, 0), (0, 8), (0, 0), (0, 0))),
        "patch_mask": np.pad(batch["patch_mask"], ((0, 0), (0, 6))),
    }
    grown = np.asarray(model(larger))
    if case.get("pooling", "cls") is None:
        grown = grown[:, :12]
    np.testing.assert_allclose(grown, together, atol=1e-5)


def test_without_a_mask_every_patch_is_real():
    model, (image, *_) = build({}), pictures()
    everything = pad_images([image], 4)
    np.testing.assert_allclose(np.asarray(model(everything)), np.asarray(model(image[np.newaxis])), atol=1e-6)
    plain = ViT(ViTConfig(**{**SHAPE, "patch_mask": False}), image_size=(16, 12), num_classes=5)
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(np.asarray(plain(image[np.newaxis])), np.asarray(model(everything)), atol=1e-6)


def test_masks_of_other_types_mean_the_same():
    model, batch = build({"pooling": "mean"}), pad_images(pictures(), 4)
    expected = np.asarray(model(batch))
    for kind in ("bool", "int32"):
        other = {**batch, "patch_mask": batch["patch_mask"].astype(kind)}
        np.testing.assert_array_equal(np.asarray(model(other)), expected)


def test_half_precision_is_the_same_function():
    model = build({"pooling": "mean"})
    half = model.rebuilt(dtype="mixed_bfloat16")
    batch = pad_images(pictures(), 4)
    given = np.asarray(half(batch)).astype("float32")
    assert np.abs(given - np.asarray(model(batch))).max() < 0.05 * np.abs(given).max()


def test_it_trains_with_fit():
    model = build({})
    model.compile("adam", "mse")
    before = np.asarray(model.blocks[0].mlp.expand.kernel)
    model.fit(pad_images(pictures(), 4), np.ones((3, 5), "float32"), verbose=0)
    after = np.asarray(model.blocks[0].mlp.expand.kernel)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"image": np.zeros((1, 16, 12, 3), "float32"), "patch_mask": np.ones((1, 11), "float32")},
            r"patch_mask of shape \[1, 11\] for images of shape \[1, 16, 12, 3\]: it must be \[batch, 12\]",
        ),
        ({"image": np.zeros((1, 15, 12, 3), "float32")}, r"15x12 is not a multiple of the patch 4x4"),
        ({"picture": np.zeros((1, 16, 12, 3), "float32")}, r"takes image and patch_mask, not picture"),
        (np.zeros((1, 16, 12, 4), "float32"), r"\[batch, height, width, 3\], not \[1, 16, 12, 4\]"),
    ],
)
def test_mistakes_say_what_to_do(inputs, message):
    with pytest.raises(InputError, match=message):
        build({})(inputs)


def test_a_model_without_masks_says_so():
    model = ViT(ViTConfig(**{**SHAPE, "patch_mask": False}), image_size=(16, 12), num_classes=5)
    with pytest.raises(InputError, match="patch_mask=True for a mask"):
        model(pad_images(pictures(), 4))
