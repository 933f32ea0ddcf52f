"""`features`: the values against NumPy, and the model as it was before."""

import keras
import numpy as np
import pytest
from random_weights import randomize
from scipy.special import erf, softmax

from keras_vit import ViT
from keras_vit.errors import InputError
from keras_vit.inspect import feature_names, features
from keras_vit.layers import pad_images

SMALL = {"patch_size": (4, 2), "width": 12, "depth": 3, "num_heads": 3, "mlp_width": 20}


def small(image_size=(8, 6), num_classes=5, **options):
    return randomize(ViT("Nano/2", image_size, num_classes, **{**SMALL, **options}))


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype("float32")


def numpy_values(model, images):
    """Every step of Dosovitskiy et al. 2020, equations 1 to 4, in float64, under the names of `features`."""
    w = {v.path.split("/", 1)[1].replace("/", "."): np.asarray(v).astype(np.float64) for v in model.weights}
    (height, width), (h, v), num_heads = model.image_size, model.config.patch_size, model.config.num_heads
    values = {}

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        values[name] = (x - mean) / np.sqrt(var + 1e-6) * w[f"{name}.scale"] + w[f"{name}.shift"]
        return values[name]

    def linear(x, name):
        values[f"{name}.input"], values[f"{name}.kernel"] = x, w[f"{name}.kernel"]
        values[name] = values[f"{name}.output"] = x @ w[f"{name}.kernel"] + w[f"{name}.bias"]
        return values[name]

    def split(x):
        return x.reshape(len(x), x.shape[1], num_heads, -1).transpose(0, 2, 1, 3)

    cut = [images[:, y : y + h, x : x + v] for y in range(0, height, h) for x in range(0, width, v)]
    x = linear(np.stack([patch.reshape(len(images), -1) for patch in cut], 1), "patches.projection")
    values["patches"] = x
    x = np.concatenate([np.repeat(w["cls"], len(images), 0), x], 1) + w["positions.table"]
    values["positions"] = x
    for i in range(model.config.depth):
        name = f"block_{i}"
        y = norm(x, f"{name}.norm_1")
        q, k, v_ = (split(linear(y, f"{name}.attention.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        values[f"{name}.attention.scores"] = scores
        values[f"{name}.attention.probabilities"] = softmax(scores, -1)
        y = (softmax(scores, -1) @ v_).transpose(0, 2, 1, 3).reshape(x.shape)
        values[f"{name}.attention"] = y = linear(y, f"{name}.attention.output")
        x = x + y
        y = linear(norm(x, f"{name}.norm_2"), f"{name}.mlp.expand")
        y = linear(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{name}.mlp.contract")
        values[f"{name}.mlp"] = y
        values[name] = x = x + y
    values["pool"] = norm(x, "norm")[:, 0]
    linear(values["pool"], "head")
    return values


def state(model):
    """What `features` touches, as it is now."""
    parts = model._flatten_layers()
    hooks = [vars(part).get("fake_quantize") for part in parts]
    return (
        hooks,
        [vars(part).get("call") for part in parts],
        [vars(part).get("compute_all_tokens") for part in parts],
    )


def test_every_value_equals_a_numpy_forward_pass():
    model, images = small(), pictures(2, 8, 6)
    expected = numpy_values(model, images)
    found = features(model, images, list(expected))
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=3e-5, err_msg=name)
    rest = [n for n in feature_names(model) if n not in expected and "skip" not in n and "drop" not in n]
    assert rest == []


def test_names_come_in_the_order_of_computation():
    names = feature_names(small())
    wanted = [
        "patches",
        "positions",
        "block_0.attention.query",
        "block_0.attention.probabilities",
        "block_0.mlp",
    ]
    wanted += ["block_0", "block_2.norm_1", "norm", "pool", "head"]
    assert sorted(wanted, key=names.index) == wanted
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "options",
    [
        {"stem": "conv", "pooling": "attention", "qk_norm": True, "layer_scale": 0.1},
        {"stem": "compact", "patch_size": 2, "mlp": "swiglu", "position": "rotary2d"},
        {"merge": (1, 2), "pooling": "mean", "registers": 2, "position": "none"},
        {
            "distilled": True,
            "attention": "hard",
            "top_k": 2,
            "dropout": 0.5,
            "patch_dropout": 0.5,
            "remat": True,
        },
    ],
)
def test_each_name_of_each_kind_of_model_has_its_value(options):
    model, images = small(**options), pictures(2, 8, 6)
    before, answer = state(model), np.asarray(model(images))
    found = features(model, images, feature_names(model))
    last = found["head"]
    if "distilled" in options:
        last = (found["head"] + found["head_distillation"]) / 2
        np.testing.assert_array_equal(found["pool"], found["norm"][:, 0])  # the first of its two calls
    np.testing.assert_allclose(last, answer, atol=1e-5)
    assert "patches" in found and "patch_drop" not in found
    if options.get("stem") == "conv":
        assert "patches.projection.output" in found and "patches.projection" not in found
    assert state(model) == before
    np.testing.assert_array_equal(np.asarray(model(images)), answer)


def test_a_padded_picture_has_the_values_that_it_has_alone():
    model = small(position="sincos2d", patch_mask=True)
    one, two = pictures(4, 6), pictures(8, 4, seed=2)
    both = features(model, pad_images([one, two], (4, 2)), ["block_2", "pool"])
    alone = features(model, {"image": one[None]}, ["block_2", "pool"])
    real = [0, 1, 2, 3]  # [CLS] and the first row of a grid of 2 x 3
    np.testing.assert_allclose(both["block_2"][:1, real], alone["block_2"], atol=1e-5)
    np.testing.assert_allclose(both["pool"][:1], alone["pool"], atol=1e-5)


def test_a_hook_that_is_there_is_called_and_its_result_recorded():
    model, images = small(), pictures(1, 8, 6)
    plain = features(model, images, "block_1.mlp.expand.input")["block_1.mlp.expand.input"]
    layer, roles = model.blocks[1].mlp.expand, []

    def double(role, tensor):
        roles.append(role)
        return tensor * 2 if role == "input" else tensor

    layer.fake_quantize = double
    answer = np.asarray(model(images))
    found = features(model, images, ["block_1.mlp.expand.input", "block_1.mlp.expand", "head"])
    np.testing.assert_allclose(found["block_1.mlp.expand.input"], 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(found["head"], answer, atol=1e-6)
    assert layer.fake_quantize is double
    assert roles == ["input", "kernel", "product", "output"] * 2


def test_a_quantization_aware_model_shows_rounded_values():
    from keras_vit.export import quantize_aware

    images = pictures(2, 8, 8)
    aware = quantize_aware(randomize(ViT("Nano/4", 8, 4, depth=1)), "int8_static", images[..., :] * 9 + 100)
    before, answer = state(aware), np.asarray(aware(images))
    names = [
        "block_0.mlp.expand.input",
        "block_0.attention.probabilities",
        "patches.projection.kernel",
        "head",
    ]
    found = features(aware, images, names)
    for name in names[:2]:
        steps = found[name] / np.diff(np.unique(found[name])).min()
        np.testing.assert_allclose(steps, np.round(steps), atol=2e-3, err_msg=name)
        assert len(np.unique(found[name])) <= 256
    np.testing.assert_allclose(found["head"], answer, atol=1e-5)
    assert len(feature_names(aware)) > 30
    assert state(aware) == before
    np.testing.assert_array_equal(np.asarray(aware(images)), answer)


def test_the_model_is_as_before_after_an_exception():
    model, images = small(), pictures(1, 8, 6)
    answer = np.asarray(model(images))

    def fail(role, tensor):
        raise RuntimeError("a hook of someone else")

    before = state(model)
    with pytest.raises(ValueError, match="images of shape"):
        features(model, pictures(1, 9, 9), ["block_0"])
    assert state(model) == before
    model.blocks[1].attention.fake_quantize = fail
    with pytest.raises(RuntimeError, match="someone else"):
        features(model, images, ["block_0", "block_1.attention.scores", "block_1.attention"])
    assert vars(model.blocks[1].attention).pop("fake_quantize") is fail
    index = model._flatten_layers().index(model.blocks[1].attention)
    model.blocks[1].attention.fake_quantize = before[0][index]
    assert state(model) == before
    np.testing.assert_array_equal(np.asarray(model(images)), answer)


def test_values_are_copies_and_half_precision_comes_as_float32():
    model = ViT("Nano/4", 8, 3, dtype="mixed_bfloat16")
    found = features(model, pictures(1, 8, 8), ["block_0", "head.kernel", "block_0.attention.probabilities"])
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}
    found["head.kernel"][:] = 7
    assert np.max(model.head.kernel) == 0


def test_a_wrong_name_is_told_the_nearest():
    model, images = small(), pictures(1, 8, 6)
    with pytest.raises(
        InputError, match=r"'block_1\.atention\.scores'.*block_1\.attention\.scores.*feature_names"
    ):
        features(model, images, ["block_0", "block_1.atention.scores"])
    with pytest.raises(InputError, match=r"no value named ''.*patches.*feature_names"):
        features(model, images, [""])
    with pytest.raises(InputError, match="'patch_drop' is not computed"):
        features(model, images, ["patch_drop"])
    with pytest.raises(InputError, match=r"not computed.*patches\.projection\.input"):
        features(small(stem="conv"), images, "patches.projection")
    with pytest.raises(InputError, match="expected a ViT, a MultimodalViT or a model around one, not Dense"):
        features(keras.layers.Dense(2), images, ["kernel"])
    assert features(model, images, []) == {}
