"""Depth groups, learning-rate factors, weight decay, freezing, and moving weights to another model."""

import keras
import numpy as np
import pytest
from random_weights import randomize

from keras_vit import ViT, ViTConfig
from keras_vit.errors import InputError
from keras_vit.layers import resize_patch_kernel, resize_positions
from keras_vit.models import freeze, is_decayed, layer_groups, learning_rate_scales
from keras_vit.training.optimization.optimizer import LayerwiseAdamW

CONFIG = ViTConfig(patch_size=4, width=12, depth=3, num_heads=3, mlp_width=20, registers=2, merge=(1, 4))


def build(**changes):
    return randomize(ViT(CONFIG, image_size=(16, 8), num_classes=5, **changes))


def images(size=(16, 8)):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype("float32")


def test_groups_hold_every_variable_once_and_in_order():
    model = build()
    groups = layer_groups(model)
    parts = [{v.path.split("/")[1] for v in group} for group in groups]
    assert parts == [
        {"cls", "registers", "patches", "positions"},
        {"block_0"},
        {"block_1", "merger"},
        {"block_2"},
        {"norm", "head"},
    ]
    assert sorted(v.path for group in groups for v in group) == sorted(
        v.path for v in model.trainable_variables
    )


def test_learning_rate_factors_fall_with_depth():
    model = build()
    scales = learning_rate_scales(model, 0.5)
    assert scales[f"{model.name}/head/kernel"] == 1
    assert scales[f"{model.name}/block_2/norm_1/scale"] == 0.5
    assert scales[f"{model.name}/block_0/mlp/expand/kernel"] == 0.125
    assert scales[f"{model.name}/cls"] == 0.0625
    for decay in (0, 1.5, "half"):
        with pytest.raises(InputError, match="layer decay must be above 0 and at most 1"):
            learning_rate_scales(build(), decay)


def test_decay_spares_biases_norms_positions_and_tokens():
    spared = {
        v.path.split("/", 1)[1] for v in build(layer_scale=0.1).trainable_variables if not is_decayed(v)
    }
    assert {
        "cls",
        "registers",
        "positions/table",
        "head/bias",
        "norm/scale",
        "block_0/scale_1/gamma",
    } <= spared
    assert not any(name.endswith("kernel") for name in spared)
    coordinates = ViT(CONFIG, image_size=(16, 8), num_classes=5, position="coordinates")
    assert not is_decayed(coordinates.positions.kernel)


def test_the_optimizer_scales_steps_and_decay():
    def step(scale):
        variable = keras.Variable(np.array([1.0, -2.0], "float32"), name="kernel")
        optimizer = LayerwiseAdamW(0.1, weight_decay=0.5, scales={variable.path: scale})
        optimizer.apply([keras.ops.convert_to_tensor([0.3, 0.4])], [variable])
        return np.asarray(variable) - [1.0, -2.0]

    np.testing.assert_allclose(step(1.0), [-0.1 - 0.05, -0.1 + 0.1], atol=1e-5)
    np.testing.assert_allclose(step(0.1), [-0.01 - 0.005, -0.01 + 0.01], atol=1e-5)


def test_the_optimizer_without_factors_is_adamw():
    def train(kind):
        variables = [keras.Variable(np.ones((3, 2), "float32")), keras.Variable(np.ones(2, "float32"))]
        optimizer = kind(0.01, weight_decay=0.1, global_clipnorm=1.0)
        random = np.random.default_rng(0)
        for _ in range(5):
            gradients = [
                keras.ops.convert_to_tensor(random.normal(size=v.shape), "float32") for v in variables
            ]
            optimizer.apply(gradients, variables)
        return [np.asarray(v) for v in variables]

    for ours, theirs in zip(train(LayerwiseAdamW), train(keras.optimizers.AdamW), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)  # one operator in place of ten rounds otherwise
        assert np.abs(ours - 1).min() > 1e-3


def test_frozen_parts_stay_and_the_rest_learns():
    model = build()
    freeze(model, 2)
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1), "mse", run_eagerly=True)
    before = {v.path: np.array(v) for v in model.weights}
    model.fit(images(), np.ones((2, 5), "float32"), verbose=0)
    changed = {
        v.path.split("/")[1] for v in model.weights if np.abs(np.asarray(v) - before[v.path]).max() > 0
    }
    assert changed == {"block_2", "norm", "head"}
    freeze(model, 0)
    assert len(model.trainable_variables) == len(model.weights)
    with pytest.raises(InputError, match="has 3 blocks: it cannot freeze 4"):
        freeze(model, 4)
    with pytest.raises(InputError, match="freeze must be a non-negative integer"):
        freeze(model, -1)


def test_a_reset_classifier_is_fresh_and_the_rest_is_kept():
    model = build()
    other = model.reset_classifier(7)
    assert other(images()).shape == (2, 7)
    np.testing.assert_array_equal(
        np.asarray(other(images())), np.zeros((2, 7)), "a fresh head starts at zero"
    )
    features = model.reset_classifier(None)
    np.testing.assert_allclose(
        np.asarray(model.head(features(images()))), np.asarray(model(images())), atol=1e-5
    )
    again = model.reset_classifier(5)
    assert np.abs(np.asarray(again.head.kernel)).max() == 0, "also for the same number of classes"


def test_another_image_size_gets_resized_positions():
    model = build()
    other = model.rebuilt(image_size=(24, 20))
    expected = resize_positions(np.asarray(model.positions.table), (4, 2), (6, 5), prefix=1)
    np.testing.assert_allclose(np.asarray(other.positions.table), expected, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(other.head.kernel), np.asarray(model.head.kernel))
    back = model.rebuilt(image_size=(8, 16))  # the same number of patches in another grid
    assert np.abs(np.asarray(back.positions.table) - np.asarray(model.positions.table)).max() > 0.01


def test_another_patch_size_gets_a_resized_kernel():
    model = build()
    other = model.rebuilt(patch_size=8, image_size=(32, 16))
    kernel = np.asarray(model.patches.projection.kernel).reshape(4, 4, 3, 12)
    expected = resize_patch_kernel(kernel, (8, 8)).reshape(-1, 12)
    np.testing.assert_allclose(np.asarray(other.patches.projection.kernel), expected, atol=1e-6)
    # Pictures of twice the size, each pixel four times: the same tokens, up to the resize's borders.
    np.testing.assert_array_equal(np.asarray(other.positions.table), np.asarray(model.positions.table))


def test_nothing_asked_nothing_changed():
    model = build()
    twin = model.rebuilt()
    assert twin is not model
    np.testing.assert_array_equal(np.asarray(twin(images())), np.asarray(model(images())))
