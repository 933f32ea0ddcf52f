"""Augmentation: the same seed gives the same pictures, and each step does to values what it says."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_vit import ViT
from keras_vit.data.augment import POLICIES, parts, policy
from keras_vit.data.augment.erasing import erase
from keras_vit.data.augment.geometry import crop_and_resize, mirror, random_boxes, shift
from keras_vit.data.augment.mixing import cut_mix, either, mix_up
from keras_vit.data.augment.rand_augment import equalize, rand_augment
from keras_vit.data.image_data import Split
from keras_vit.data.pipeline import training_batches
from keras_vit.errors import InputError
from keras_vit.training.recipes import AUGMENTATIONS, recipe

ACTIVE = [name for name in POLICIES if name != "none"]
CLASSES = 5


def pictures(count=64, height=16, width=24, seed=0):
    images = np.random.default_rng(seed).uniform(0, 255, (count, height, width, 3)).astype("float32")
    return images, np.eye(CLASSES, dtype="float32")[np.arange(count) % CLASSES]


def flat(count=64, size=16):
    """Picture i is filled with i, and its label is of class i, so that all that is mixed in can be told."""
    images = np.broadcast_to(np.arange(count, dtype="float32")[:, None, None, None], (count, size, size, 3))
    return images.copy(), np.eye(count, dtype="float32")


def apply(step, images, labels=None, seed=(1, 2)):
    labels = np.ones((len(images), 1), "float32") if labels is None else labels
    images, labels = step(tf.constant(images), tf.constant(labels), tf.constant(seed, tf.int32))
    return images.numpy(), labels.numpy()


def ramp(count=400):
    """Each pixel is its column."""
    return np.tile(np.arange(16, dtype="float32")[None, None, :, None], (count, 16, 1, 3))


# All policies


def test_a_recipe_knows_the_policies_there_are():
    assert list(POLICIES) == list(AUGMENTATIONS)


def test_an_unknown_policy_is_refused_with_those_there_are():
    with pytest.raises(
        InputError, match=r"unknown augmentation 'stong'.*none, affine, light, crop, strong.*'strong'"
    ):
        policy("stong")


@pytest.mark.parametrize("name", ACTIVE)
def test_pictures_depend_on_the_seed_alone(name):
    images, labels = pictures()
    augment = policy(name)
    once, again, other = (apply(augment, images, labels, seed) for seed in [(3, 4), (3, 4), (3, 5)])
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    changed = np.abs(other[0] - once[0]).mean((1, 2, 3)) > 1
    assert changed.mean() > 0.9
    # What a function draws does not depend on whether it was compiled, nor on a policy made anew.
    compiled = tf.function(policy(name))(tf.constant(images), tf.constant(labels), tf.constant([3, 4]))
    np.testing.assert_allclose(compiled[0], once[0], atol=0.01)


@pytest.mark.parametrize("name", ACTIVE)
@pytest.mark.parametrize("count", [1, 7])
def test_shape_dtype_range_and_the_sum_of_labels_stay(name, count):
    images, labels = pictures(count, 10, 14)
    for seed in range(3):
        augmented, mixed = apply(policy(name), images, labels, (0, seed))
        assert augmented.shape == images.shape and augmented.dtype == np.float32
        assert augmented.min() >= 0 and augmented.max() <= 255
        np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-6)
        if name != "strong" or count == 1:
            np.testing.assert_allclose(mixed, labels, rtol=1e-6)


DIGEST = """
import hashlib, numpy as np, tensorflow as tf
from keras_vit.data.augment import policy
images = np.random.default_rng(0).uniform(0, 255, (16, 16, 24, 3)).astype("float32")
labels = np.eye(16, dtype="float32")
found = policy("strong")(tf.constant(images), tf.constant(labels), tf.constant([5, 6]))
print("digest", hashlib.sha256(b"".join(x.numpy().tobytes() for x in found)).hexdigest())
"""


def test_another_process_draws_the_same_pictures_also_where_keras_works_by_jax():
    images, labels = pictures(16)[0], np.eye(16, dtype="float32")
    ours = hashlib.sha256(b"".join(x.tobytes() for x in apply(policy("strong"), images, labels, (5, 6))))
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.split()[-2:] == ["digest", ours.hexdigest()]


def test_making_a_policy_does_not_change_what_keras_draws():
    import keras

    keras.utils.set_random_seed(0)
    wanted = keras.initializers.GlorotUniform()([4])
    keras.utils.set_random_seed(0)
    policy("strong")
    np.testing.assert_array_equal(keras.initializers.GlorotUniform()([4]), wanted)


@pytest.mark.parametrize("name", ["affine", "light", "crop"])
def test_moving_content_invents_no_values(name):
    images, labels = pictures()
    augmented, _ = apply(policy(name), 50 + images / 2, labels)
    assert augmented.min() >= 50 - 1e-3
    assert augmented.max() <= 177.5 + 1e-3


# Geometry


def test_mirror_swaps_left_and_right_of_about_half():
    images, _ = pictures(400)
    augmented, _ = apply(mirror(), images)
    swapped = (augmented == images[:, :, ::-1]).all((1, 2, 3))
    kept = (augmented == images).all((1, 2, 3))
    assert (swapped | kept).all()
    assert 0.4 < swapped.mean() < 0.6
    np.testing.assert_array_equal(apply(mirror(1.0), images)[0], images[:, :, ::-1])


def test_crop_and_resize_equals_keras_cv_on_the_same_boxes():
    with contextlib.redirect_stdout(io.StringIO()):
        import keras_cv
    images, _ = pictures(32)
    layer = keras_cv.layers.RandomCropAndResize((16, 24), (0.6, 1.0), (3 / 4, 4 / 3))
    boxes = random_boxes(32, [1, 2])
    wanted = [
        layer.augment_image(image, transformation=box[None]) for image, box in zip(images, boxes, strict=True)
    ]
    np.testing.assert_allclose(apply(crop_and_resize(), images)[0], tf.stack(wanted), atol=1e-4)


def test_boxes_have_the_areas_and_ratios_that_are_promised():
    top, left, bottom, right = random_boxes(1000, [0, 0]).numpy().T
    assert min(top.min(), left.min()) >= 0 and max(bottom.max(), right.max()) <= 1 + 1e-6
    area, ratio = (bottom - top) * (right - left), (right - left) / (bottom - top)
    assert 0.6 - 1e-6 <= area.min() < 0.62 and 0.9 < area.max() <= 1 + 1e-6
    assert 3 / 4 - 1e-6 <= ratio.min() < 0.8 and 1.25 < ratio.max() <= 4 / 3 + 1e-6


def test_the_crop_of_the_whole_box_is_the_picture(monkeypatch):
    from keras_vit.data.augment import geometry

    whole = lambda count, seed: tf.tile([[0.0, 0.0, 1.0, 1.0]], [count, 1])  # noqa: E731
    monkeypatch.setattr(geometry, "random_boxes", whole)
    images, _ = pictures()
    np.testing.assert_allclose(apply(crop_and_resize(), images)[0], images, atol=1e-3)


def test_shift_is_a_window_of_the_reflected_picture():
    images, _ = pictures(100, 16, 24)
    augmented, _ = apply(shift(), images)
    padded = np.pad(images, [(0, 0), (2, 2), (3, 3), (0, 0)], mode="reflect")
    found = set()
    for number in range(100):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(7)
            if (padded[number, top : top + 16, left : left + 24] == augmented[number]).all()
        ]
        assert len(matches) == 1
        found |= set(matches)
    assert {top for top, _ in found} == set(range(5))
    assert {left for _, left in found} == set(range(7))
    assert len(found) > 25  # of 35: down and right are drawn apart


def test_affine_leaves_the_middle_near_the_middle_and_never_mirrors():
    augmented, _ = apply(policy("affine"), ramp())
    assert (augmented[:, 8, 0, 0] < augmented[:, 8, -1, 0]).all()
    assert abs(augmented[:, 8, 8, 0].mean() - 8) < 0.5
    assert np.abs(augmented[:, 8, 8, 0] - 8).max() < 4


# Erasing


def test_erasing_replaces_one_rectangle_of_the_promised_share():
    images = np.full((500, 32, 40, 3), -1, "float32")
    augmented, _ = apply(erase(1.0), images)
    erased = (augmented != -1).any(-1)
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    np.testing.assert_array_equal(erased.sum((1, 2)), rows * columns)  # a full rectangle
    assert (erased == (augmented != -1).all(-1)).all()
    share = erased.mean((1, 2))
    assert share.max() <= 1 / 3 + 0.03 and share.max() > 0.28
    assert 0.1 < share.mean() < 0.177  # 17.7% on average, less what hangs over the edge
    inside = augmented[erased]
    assert inside.min() >= 0 and inside.max() <= 255
    assert abs(inside.mean() - 127.5) < 3 and inside.std() > 65  # even noise: 73.6
    everywhere = erased.mean(0)
    assert everywhere.min() > 0.03  # corners too


def test_erasing_spares_the_other_pictures():
    images, _ = pictures(400)
    augmented, _ = apply(erase(0.25), images)
    touched = (augmented != images).any((1, 2, 3))
    assert 0.17 < touched.mean() < 0.33
    assert (apply(erase(0.0), images)[0] == images).all()


# Mixing


def test_the_share_of_a_cut_mix_label_is_the_share_of_the_area():
    images, labels = flat()
    augmented, mixed = apply(cut_mix(), images, labels)
    for number in range(64):
        for other in np.unique(augmented[number]):
            assert (augmented[number] == other).mean() == mixed[number, int(other)]
    np.testing.assert_allclose(mixed.sum(1), 1)
    own = mixed.diagonal()
    assert own.min() < 0.4 and own.max() > 0.9


def test_the_rectangles_of_cut_mix_are_as_large_as_the_paper_has_them():
    images, labels = flat(2000, 16)
    _, mixed = apply(cut_mix(), images, labels)
    # A side s = sqrt(u) around an even middle keeps s - s^2 / 4, both sides alike: the mean of its square is
    # E[u - u^1.5 / 2 + u^2 / 16] = 1/2 - 1/5 + 1/48 for u even from 0 to 1.
    assert abs((1 - mixed.diagonal()).mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.02


def test_cut_mix_puts_the_part_where_it_was():
    images, _ = pictures(8)
    augmented, mixed = apply(cut_mix(), images, np.eye(8, dtype="float32"))
    for number in range(8):
        sources = np.flatnonzero(mixed[number])
        from_any = np.any([augmented[number] == images[source] for source in sources], axis=0)
        assert from_any.all()


def test_the_share_of_a_mix_up_label_is_the_share_of_the_pixels():
    images, labels = flat()
    augmented, mixed = apply(mix_up(), images, labels)
    np.testing.assert_allclose(augmented[:, 3, 5, 0], mixed @ np.arange(64), rtol=1e-5)
    assert (np.ptp(augmented, axis=(1, 2, 3)) < 1e-4).all()
    _, mixed = apply(mix_up(0.8), *flat(2000, 1))
    own = mixed.diagonal()
    assert abs(own.mean() - 0.5) < 0.02
    assert abs(own.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.005  # of Beta(a, a)


def test_each_picture_is_mixed_into_exactly_one():
    for step in (mix_up(), cut_mix()):
        _, mixed = apply(step, *flat())
        others = mixed - np.diag(mixed.diagonal())
        assert ((others > 0).sum(1) <= 1).all() and ((others > 0).sum(0) <= 1).all()


def test_either_takes_one_or_the_other_for_the_whole_batch():
    images, labels = flat()
    kinds = set()
    for seed in range(12):
        augmented, _ = apply(either(mix_up(), cut_mix()), images, labels, (0, seed))
        kinds.add(bool((augmented == np.round(augmented)).all()))
    assert kinds == {True, False}


# RandAugment


def still_pictures(count=200):
    """Each channel has each of the values 0..255 once: AutoContrast and equalization leave it as it is."""
    random = np.random.default_rng(0)
    values = [random.permutation(256) for _ in range(count * 3)]
    return np.reshape(values, (count, 3, 16, 16)).transpose(0, 2, 3, 1).astype("float32")


def test_rand_augment_of_magnitude_zero_changes_nothing():
    images = still_pictures()
    augmented, _ = apply(rand_augment(3, magnitude=0.0), images)
    np.testing.assert_allclose(augmented, images, atol=1e-3)


def test_rand_augment_does_each_operation_to_about_one_picture_in_fourteen():
    images = 20 + still_pictures(1400) * 0.7
    augmented, _ = apply(rand_augment(1, magnitude=0.5), images)
    np.testing.assert_array_equal(apply(rand_augment(0), images)[0], images)
    counts = {
        "same": (augmented == images).all((1, 2, 3)),
        "brighter": np.isclose(augmented, np.minimum(images * 1.45, 255), atol=1e-3).all((1, 2, 3)),
        "darker": np.isclose(augmented, images * 0.55, atol=1e-3).all((1, 2, 3)),
        "solarized": np.isclose(augmented, np.where(images < 128, images, 255 - images)).all((1, 2, 3)),
        "posterized": (augmented == np.floor(images / 4) * 4).all((1, 2, 3)),
        "stretched": np.isclose(augmented, (images - 20) / 0.7, atol=1e-2).all((1, 2, 3)),
        "moved": (augmented == 128).all((1, 3)).any(1) | (augmented == 128).all((2, 3)).any(1),
    }
    counts = {name: int(found.sum()) for name, found in counts.items()}
    wanted = {
        "same": 100,
        "brighter": 50,
        "darker": 50,
        "solarized": 100,
        "posterized": 100,
        "stretched": 100,
        "moved": 200,
    }
    for name, count in wanted.items():
        assert count - 4 * count**0.5 < counts[name] < count + 4 * count**0.5, counts


def test_pictures_keep_their_places_in_rand_augment():
    images = flat(100)[0] * 2
    augmented, _ = apply(rand_augment(1, magnitude=0.0), images)
    np.testing.assert_array_equal(augmented, images)


def test_equalize_is_that_of_pillow():
    random = np.random.default_rng(0)
    images = np.stack(
        [
            random.normal(90, 20, (32, 20, 3)).clip(0, 255),
            random.normal(200, 5, (32, 20, 3)).clip(0, 255),
            np.full((32, 20, 3), 7),
            random.integers(0, 2, (32, 20, 3)) * 255,
        ]
    ).astype("uint8")
    wanted = [np.asarray(ImageOps.equalize(Image.fromarray(image))) for image in images]
    np.testing.assert_array_equal(equalize(tf.constant(images, tf.float32)), wanted)


# In the pipeline


def test_only_real_examples_are_mixed_into_a_batch_that_was_filled_up():
    images = np.repeat(np.arange(5, dtype=np.uint8) * 40, 8 * 8 * 3).reshape(5, 8, 8, 3)
    split = Split(images, np.arange(5, dtype=np.int32), [str(i) for i in range(5)])
    model = ViT("Nano/2", image_size=8, num_classes=5)
    chosen = recipe("thumbnails", batch_size=4, augment="strong")
    batches = list(training_batches(split, model, chosen, 0, 4, even=True))
    for _, labels, weights in batches[::2]:
        np.testing.assert_array_equal(weights, [1, 1, 1, 1])
        np.testing.assert_allclose(labels.numpy().sum(1), 1, rtol=1e-6)
    assert any(set(np.unique(labels)) != {0, 1} for _, labels, _ in batches[::2])
    for _, labels, weights in batches[1::2]:  # one real example: nothing to mix it with
        np.testing.assert_array_equal(weights, [4, 0, 0, 0])
        assert set(np.unique(labels)) == {0, 1}


def test_the_parts_of_a_policy_are_sure_to_act():
    images, labels = pictures(16)
    shown = parts("strong")
    assert list(shown) == ["crop", "mirror", "RandAugment", "erasing", "MixUp", "CutMix"]
    np.testing.assert_array_equal(apply(shown["mirror"], images, labels)[0], images[:, :, ::-1])
    assert (apply(shown["erasing"], images, labels)[0] != images).any((1, 2, 3)).all()
