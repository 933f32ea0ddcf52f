"""The whole model against numbers from outside: published parameter counts, and NumPy."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy.special import erf, softmax

import keras_vit
from keras_vit import ViT, ViTConfig
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


def randomize(model, seed=0):
    """Give every variable of a model a random value, zeros and ones included."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        size = 1 / np.sqrt(variable.shape[0]) if variable.path.endswith("kernel") else 0.2
        variable.assign(random.normal(1.0 if variable.path.endswith("scale") else 0.0, size, variable.shape))
    return model


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
        size = config.width // config.heads
        q, k, value = (linear(y, f"block_{i}/attention/{n}") for n in ("query", "key", "value"))
        for head in range(config.heads):
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
    config = ViTConfig(patch_size=(4, 2), width=12, depth=3, heads=3, mlp_width=20, pooling=pooling)
    model = randomize(ViT(config, image_size=(8, 6), classes=5))
    images = np.random.default_rng(1).normal(size=(3, 8, 6, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(model(images)), numpy_vit(model, images), atol=2e-5)


def test_a_saved_model_answers_the_same(tmp_path):
    model = randomize(
        ViT("Nano/2", image_size=(8, 4), classes=3, preprocessing={"mean": [0.1] * 3, "std": [2.0] * 3})
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(1).normal(size=(2, 8, 4, 3)).astype("float32")
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(model(images)))
    assert loaded.preprocessing == model.preprocessing
    assert loaded.config == model.config
    code = f"import keras, keras_vit; print(keras.models.load_model({str(tmp_path / 'model.keras')!r}).name)"
    assert run_python(code).splitlines()[-1] == "vit", "importing the package is enough to load its models"


def test_without_a_head_it_gives_features():
    images = np.zeros((2, 8, 8, 3), "float32")
    assert ViT("Nano/4", image_size=8, classes=None)(images).shape == (2, 64)
    assert ViT("Nano/4", image_size=8, classes=None, pooling=None)(images).shape == (2, 4, 64)


def test_bfloat16_stays_close_to_float32():
    model = randomize(ViT("Nano/2", image_size=8, classes=4))
    half = ViT("Nano/2", image_size=8, classes=4, dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    given, expected = np.asarray(keras.ops.cast(half(images), "float32")), np.asarray(model(images))
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT("Ti/16", image_size=100), r"100x100 is not a multiple of the patch 16x16"),
        (lambda: ViT("Ti/16", classes=0), r"classes must be a positive integer or None"),
        (lambda: ViT("Ti/16", pooling=None), r"use classes=None"),
        (lambda: ViT("Ti/16", colour="red"), r"unknown ViTConfig field 'colour'"),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_images_of_another_size_are_named():
    with pytest.raises(InputError, match=r"\[batch, 8, 8, 3\], not \[1, 16, 16, 3\]"):
        ViT("Nano/2", image_size=8, classes=2)(np.zeros((1, 16, 16, 3), "float32"))


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    ).stdout


def test_the_numpy_backend_needs_no_tensorflow_and_answers_the_same(tmp_path):
    model = randomize(ViT("Nano/2", image_size=8, classes=3))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    np.savez(tmp_path / "given.npz", images=images, *model.get_weights())  # noqa: B026
    output = run_python(
        f"""
import sys, numpy as np, keras_vit
model = keras_vit.ViT("Nano/2", image_size=8, classes=3)
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
