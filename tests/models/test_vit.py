"""The whole model against numbers from outside: published parameter counts, and NumPy."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from random_weights import randomize
from scipy.special import erf, softmax

import keras_vit
from keras_vit import ViT, ViTConfig
from keras_vit.config import POSITIONS
from keras_vit.errors import InputError

GOLDEN = [  # at 224, 1000 classes; the papers' and timm's counts
    ("Ti/16", "cls", 5_717_416),
    ("S/16", "cls", 22_050_664),
    ("S/32", "cls", 22_878_952),
    ("B/8", "cls", 86_576_872),
    ("B/16", "cls", 86_567_656),
    ("B/32", "cls", 88_224_232),
    ("L/16", "cls", 304_326_632),
    ("L/32", "cls", 306_535_400),
    ("H/14", "cls", 632_045_800),
    ("S/16", "mean", 22_049_896),
    ("B/16", "mean", 86_566_120),
]


@pytest.mark.parametrize(("variant", "pooling", "count"), GOLDEN)
def test_parameter_counts(variant, pooling, count):
    """Blocks are alike, so one and two of them tell the size of any depth, and H/14 stays out of memory."""
    depth = ViTConfig.of(variant).depth
    one, two = (ViT(variant, pooling=pooling, depth=d).count_params() for d in (1, 2))
    assert one + (depth - 1) * (two - one) == count


def test_parameter_count_of_a_whole_model():
    assert ViT("Ti/16").count_params() == 5_717_416


def numpy_vit(model, images):
    """Dosovitskiy et al. 2020, equations 1 to 4, in float64 and from the weights' names alone."""
    w = {v.path.split("/", 1)[1]: np.asarray(v, np.float64) for v in model.weights}
    config, (height, width) = model.config, model.image_size
    (h, v), batch = config.patch_size, len(images)

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-6) * w[f"{name}/scale"] + w[f"{name}/shift"]

    def linear(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    patches = [
        images[:, y : y + h, x : x + v].reshape(batch, -1)
        for y in range(0, height, h)
        for x in range(0, width, v)
    ]
    x = linear(np.stack(patches, 1), "patches/projection")
    if config.pooling == "cls":
        x = np.concatenate([np.repeat(w["cls"], batch, 0), x], 1)
    x = x + w["positions/table"]
    for i in range(config.depth):
        y = norm(x, f"block_{i}/norm_1")
        heads = []
        size = config.width // config.num_heads
        q, k, value = (linear(y, f"block_{i}/attention/{n}") for n in ("query", "key", "value"))
        for head in range(config.num_heads):
            s = slice(head * size, (head + 1) * size)
            scores = q[..., s] @ k[..., s].swapaxes(1, 2) / np.sqrt(size)
            heads.append(softmax(scores, -1) @ value[..., s])
        x = x + linear(np.concatenate(heads, -1), f"block_{i}/attention/output")
        y = linear(norm(x, f"block_{i}/norm_2"), f"block_{i}/mlp/expand")
        x = x + linear(0.5 * y * (1 + erf(y / np.sqrt(2))), f"block_{i}/mlp/contract")
    x = norm(x, "norm")
    return linear(x[:, 0] if config.pooling == "cls" else x.mean(1), "head")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_logits_equal_a_numpy_forward_pass(pooling):
    config = ViTConfig(patch_size=(4, 2), width=12, depth=3, num_heads=3, mlp_width=20, pooling=pooling)
    model = randomize(ViT(config, image_size=(8, 6), num_classes=5))
    images = np.random.default_rng(1).normal(size=(3, 8, 6, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(model(images)), numpy_vit(model, images), atol=2e-5)


def test_a_saved_model_answers_the_same(tmp_path):
    model = randomize(
        ViT("Nano/2", image_size=(8, 4), num_classes=3, preprocessing={"mean": [0.1] * 3, "std": [2.0] * 3})
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(1).normal(size=(2, 8, 4, 3)).astype("float32")
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(model(images)))
    assert loaded.preprocessing == model.preprocessing
    assert loaded.config == model.config
    code = f"import keras, keras_vit; print(keras.models.load_model({str(tmp_path / 'model.keras')!r}).name)"
    assert run_python(code).splitlines()[-1] == model.name, (
        "importing the package is enough to load its models"
    )


def test_without_a_head_it_gives_features():
    images = np.zeros((2, 8, 8, 3), "float32")
    assert ViT("Nano/4", image_size=8, num_classes=None)(images).shape == (2, 64)
    assert ViT("Nano/4", image_size=8, num_classes=None, pooling=None)(images).shape == (2, 4, 64)


def test_bfloat16_stays_close_to_float32():
    model = randomize(ViT("Nano/2", image_size=8, num_classes=4))
    half = ViT("Nano/2", image_size=8, num_classes=4, dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    given, expected = np.asarray(keras.ops.cast(half(images), "float32")), np.asarray(model(images))
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT("Ti/16", image_size=100), r"100x100 is not a multiple of the patch 16x16"),
        (lambda: ViT("Ti/16", num_classes=0), r"classes must be a positive integer or None"),
        (lambda: ViT("Ti/16", pooling=None), r"use num_classes=None"),
        (lambda: ViT("Ti/16", colour="red"), r"unknown ViTConfig field 'colour'"),
        (lambda: ViT("Ti/16", preprocessing={"mean": [0.5]}), r"preprocessing must be .*'mean': \[0.5\]"),
        (lambda: ViT("Ti/16", preprocessing={"mean": [0] * 3, "std": [0] * 3}), r"numbers above 0"),
        (lambda: ViT("Nano/4", image_size=8, position="rotary2d", num_heads=32), r"multiple of 4, not 2"),
        (lambda: ViT("Nano/6", image_size=12, stem="compact"), r"power of two"),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_images_of_another_size_are_named():
    with pytest.raises(InputError, match=r"\[batch, 8, 8, 3\], not \[1, 16, 16, 3\]"):
        ViT("Nano/2", image_size=8, num_classes=2)(np.zeros((1, 16, 16, 3), "float32"))


SMALL = ViTConfig(patch_size=4, width=12, depth=3, num_heads=3, mlp_width=20)


def small(**changes):
    return randomize(ViT(SMALL, image_size=(8, 12), **{"num_classes": 5, **changes}))


def noise(count=3):
    return np.random.default_rng(1).normal(size=(count, 8, 12, 3)).astype("float32")


@pytest.mark.parametrize(
    "changes",
    [
        {"registers": 3},
        {"registers": 3, "pooling": "mean"},
        {"distilled": True},
        {"merge": (1, 4)},
        {"stem": "compact", "position": "sinusoidal"},
        {"stem": "overlapping", "position": "rotary2d", "num_heads": 1},
        {"attention": "hard", "top_k": 2, "position": "relative"},
        {"attention": "relu", "qk_norm": True, "mlp": "swiglu", "layer_scale": 0.1},
        {"pooling": "attention", "position": "factorised", "mlp": "gelu_tanh"},
        {"remat": True, "stochastic_depth": 0.2, "dropout": 0.1, "attention_dropout": 0.1},
        {"patch_dropout": 0.5, "position": "coordinates"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_option_is_saved_with_the_model(changes, tmp_path):
    model = small(**changes)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config == model.config
    np.testing.assert_array_equal(np.asarray(loaded(noise())), np.asarray(model(noise())))
    assert model.compute_output_shape((3, 8, 12, 3)) == tuple(model(noise()).shape)


def test_only_the_class_token_leaves_the_last_block_and_nothing_is_lost():
    for changes in ({}, {"registers": 2}, {"distilled": True}, {"position": "relative", "merge": (2, 3)}):
        model = small(**changes)
        short = np.asarray(model(noise()))
        model.compute_all_tokens = True
        np.testing.assert_allclose(np.asarray(model(noise())), short, atol=1e-5)


def test_mean_pooling_leaves_registers_out():
    model = small(registers=2, pooling="mean")
    features = small(registers=2, pooling=None, num_classes=None)
    features.set_weights(model.get_weights()[:-2])
    tokens = np.asarray(features(noise()))
    assert tokens.shape == (3, 6, 12), "registers are no patches"
    expected = tokens.mean(1) @ np.asarray(model.head.kernel) + np.asarray(model.head.bias)
    np.testing.assert_allclose(np.asarray(model(noise())), expected, atol=1e-5)


def test_a_distilled_model_averages_two_heads():
    model = small(distilled=True)
    model.compute_all_tokens = True
    tokens = {}
    model.norm.call = lambda x, call=model.norm.call: tokens.setdefault("x", call(x))
    answer = np.asarray(model(noise()))
    x = np.asarray(tokens["x"])
    first = np.asarray(model.head(x[:, 0]))
    second = np.asarray(model.head_distillation(x[:, 1]))
    np.testing.assert_allclose(answer, (first + second) / 2, atol=1e-5)


def test_positions_tell_patches_apart_and_without_them_order_is_lost():
    shuffled = noise()[:, :, [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]]  # two columns of patches swapped
    for position in set(POSITIONS) - {"none"}:
        model = small(position=position, pooling="mean", num_heads=1 if position == "rotary2d" else 3)
        assert np.abs(np.asarray(model(shuffled)) - np.asarray(model(noise()))).max() > 1e-3, position
    blind = small(position="none", pooling="mean")
    np.testing.assert_allclose(np.asarray(blind(shuffled)), np.asarray(blind(noise())), atol=1e-5)


def test_rematerialisation_changes_no_gradient():
    import tensorflow as tf

    def gradients(remat):
        keras.utils.set_random_seed(3)
        model = ViT(
            SMALL,
            image_size=(8, 12),
            num_classes=5,
            remat=remat,
            dropout=0.3,
            stochastic_depth=0.5,
            attention_dropout=0.2,
        )
        randomize(model)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(noise(), training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_allclose(np.asarray(again), np.asarray(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["learned", "rotary2d", "relative"])
def test_patch_dropout_leaves_tokens_out_in_training_only(position):
    changes = {"position": position, "num_heads": 1 if position == "rotary2d" else 3}
    model, plain = small(patch_dropout=0.5, **changes), small(**changes)
    np.testing.assert_array_equal(np.asarray(model(noise())), np.asarray(plain(noise())))
    lengths = []
    block = model.blocks[0]
    block.call = lambda tokens, call=block.call, **options: (
        lengths.append(tokens.shape[1]),
        call(tokens, **options),
    )[1]
    trained = np.asarray(model(noise(), training=True))
    assert lengths == [1 + 3]
    assert np.abs(trained - np.asarray(plain(noise()))).max() > 1e-3


def test_fit_learns_with_everything_on():
    """One model with every random part: the loss of four pictures falls."""
    keras.utils.set_random_seed(0)
    model = ViT(
        "Nano/4",
        image_size=8,
        num_classes=2,
        depth=2,
        registers=2,
        dropout=0.1,
        attention_dropout=0.1,
        stochastic_depth=0.1,
        patch_dropout=0.25,
        layer_scale=0.1,
        remat=True,
    )
    model.compile(keras.optimizers.AdamW(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = noise(4)[:, :, :8], np.array([0, 1, 0, 1])
    history = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert np.mean(history[-5:]) < 0.5 * history[0]


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    ).stdout


def test_the_numpy_backend_needs_no_tensorflow_and_answers_the_same(tmp_path):
    model = randomize(ViT("Nano/2", image_size=8, num_classes=3))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    np.savez(tmp_path / "given.npz", images=images, *model.get_weights())  # noqa: B026
    output = run_python(
        f"""
import sys, numpy as np, keras_vit
model = keras_vit.ViT("Nano/2", image_size=8, num_classes=3)
file = np.load({str(tmp_path / "given.npz")!r})
model.set_weights([file[f"arr_{{i}}"] for i in range(len(model.weights))])
np.save({str(tmp_path / "answer.npy")!r}, np.asarray(model(file["images"])))
print([name for name in sys.modules if name.split(".")[0] == "tensorflow"])
""",
        KERAS_BACKEND="numpy",
    )
    assert output.strip() == "[]"
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), np.asarray(model(images)), atol=1e-5)


def test_importing_the_package_imports_no_keras():
    assert keras_vit.ViT is ViT
    code = "import sys, keras_vit; print([m for m in ('keras', 'tensorflow', 'numpy') if m in sys.modules])"
    assert run_python(code).strip() == "[]"
