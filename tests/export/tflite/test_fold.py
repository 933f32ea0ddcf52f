"""The exact rewrites: the same logits from raw pixels, and really simpler."""

import keras
import numpy as np
import pytest
from random_weights import randomize

from keras_vit import ViT, ViTConfig
from keras_vit.config import POSITIONS
from keras_vit.errors import InputError
from keras_vit.export import fold
from keras_vit.export.tflite.fold import from_pixels, in_float32, raw_pixels
from keras_vit.export.tflite.rewrites import LACKS, REWRITES
from keras_vit.models.transfer import variables_by_name

PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def random_vit(pooling="cls", dtype=None, **changes):
    config = ViTConfig(patch_size=(4, 2), width=12, depth=2, num_heads=3, mlp_width=20, pooling=pooling)
    model = ViT(config, image_size=(8, 6), num_classes=5, preprocessing=PREPROCESSING, dtype=dtype, **changes)
    return randomize(model)


def pixels(count=6):
    return np.random.default_rng(1).integers(0, 256, (count, 8, 6, 3)).astype("float32")


def difference(model, **options):
    """Largest difference of logits between `model` and `fold(model, **options)`; and the latter."""
    raw = np.random.default_rng(1).integers(0, 256, (6, *model.image_size, 3)).astype("float32")
    normalised = (raw / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]
    folded = fold(model, **options)
    found = np.asarray(folded(from_pixels(raw, folded) if options.get("pixels", True) else normalised))
    return np.abs(found - np.asarray(model(normalised))).max(), folded


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_folded_model_gives_the_same_logits_from_raw_pixels(pooling):
    model = random_vit(pooling)
    normalised = (pixels() / 255 - PREPROCESSING["mean"]) / PREPROCESSING["std"]
    folded = fold(model)
    np.testing.assert_allclose(np.asarray(folded(pixels())), np.asarray(model(normalised)), atol=1e-5)
    names = {v.path.split("/")[-1] for v in folded.weights}
    assert names <= {"kernel", "bias", "table", "cls"}, "no scale and shift is left"
    assert folded.count_params() < model.count_params()


PARTS = [
    *[{"position": position} for position in POSITIONS if position not in ("rotary2d", "relative")],
    {"position": "relative", "num_heads": 2},
    {"position": "rotary2d", "num_heads": 1},
    {"stem": "conv", "registers": 2, "mlp": "gelu_tanh"},
    {"stem": "overlapping"},
    {"stem": "compact", "patch_size": 2},
    {"distilled": True, "layer_scale": 0.1, "epsilon": 1e-3},
    {"mlp": "swiglu", "registers": 1, "pooling": "mean", "position": "none"},
    {"pooling": "attention"},
    {"pooling": "attention", "attention": "relu", "qk_norm": True, "position": "rotary2d", "num_heads": 1},
    {"attention": "relu", "merge": (1, 3), "registers": 2},
    {"attention": "hard", "top_k": 2},
    {"qk_norm": True},
    {"patch_mask": True, "merge": (0, 2)},
]


@pytest.mark.parametrize("changes", PARTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_part_folds_exactly(changes):
    largest, folded = difference(random_vit(**changes))
    assert largest < 1e-5
    names = {v.path.split("/")[-1] for v in folded.weights}
    kept = {"query_norm", "key_norm"} if changes.get("qk_norm") else set()
    left = {v.path for v in folded.weights if v.path.split("/")[-1] in ("scale", "shift", "gamma")}
    assert {path.split("/")[-2] for path in left} == kept
    assert names & {"kernel"}


# What is gone after each rewrite alone: a variable, or the pixel normalisation.
GONE = {
    "layer_scale": "block_0/scale_1/gamma",
    "means": None,
    "norms": "block_1/norm_2/shift",
    "attention_scale": None,
    "value_bias": "block_0/attention/value/bias",
    "key_bias": "block_0/attention/key/bias",
    "patch_bias": "patches/projection/bias",
    "pixels": None,
}


@pytest.mark.parametrize("rewrite", REWRITES)
def test_each_rewrite_alone_is_exact_and_removes_what_it_says(rewrite):
    model = random_vit(layer_scale=None if rewrite == "means" else 0.5)
    largest, folded = difference(model, rewrites=[rewrite])
    assert largest < 1e-5
    gone = set(variables_by_name(model)) - set(variables_by_name(folded))
    if GONE[rewrite]:
        assert GONE[rewrite] in gone
    else:
        assert not gone
    assert (folded.preprocessing == raw_pixels(3)) == (rewrite == "pixels")
    has = ViTConfig.of(model.config, layer_scale=folded.config.layer_scale)
    assert folded.config == ViTConfig.of(has, **LACKS.get(rewrite, {}))


def test_tokens_without_a_mean_need_none_subtracted():
    folded = fold(random_vit(layer_scale=0.5, registers=2))
    assert not folded.norm.centre and not any(b.norm_1.centre or b.norm_2.centre for b in folded.blocks)
    seen = []
    for block in folded.blocks:
        block.fake_quantize = lambda role, tokens: seen.append(np.asarray(tokens)) or tokens
    folded(pixels())
    assert len(seen) == 4 and np.ptp(seen[-1]) > 1
    for tokens in seen:
        assert np.abs(tokens.mean(-1)).max() < 1e-5 * np.abs(tokens).max()
    stays = fold(random_vit(stem="compact", patch_size=2))
    assert stays.norm.centre and stays.config.norm_centre


def test_without_rewrites_nothing_changes():
    largest, folded = difference(random_vit(), rewrites=[], pixels=False)
    assert largest == 0.0
    assert folded.config == random_vit().config
    with pytest.raises(
        InputError, match="unknown rewrite 'biases': the known ones are layer_scale, means, norms"
    ):
        fold(random_vit(), rewrites=["biases"])


@pytest.mark.parametrize("stem", ["compact", "overlapping"])
def test_a_stem_that_pads_keeps_its_normalisation(stem):
    folded = fold(random_vit(stem=stem, patch_size=2))
    assert folded.preprocessing == PREPROCESSING


def test_folding_twice_changes_nothing():
    folded = fold(random_vit())
    assert fold(folded) is folded


def test_a_half_precision_model_is_folded_to_float32():
    folded = fold(random_vit(dtype="mixed_bfloat16"))
    assert folded.dtype_policy.name == "float32"


def test_a_half_precision_model_has_an_exact_twin():
    half, exact = random_vit(dtype="mixed_bfloat16"), random_vit()
    np.testing.assert_array_equal(np.asarray(in_float32(half)(pixels())), np.asarray(exact(pixels())))
    assert in_float32(exact) is exact


def test_a_folded_model_can_be_saved(tmp_path):
    folded = fold(random_vit())
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(np.asarray(loaded(pixels())), np.asarray(folded(pixels())))


def test_what_cannot_be_exported_is_named():
    with pytest.raises(InputError, match="not a ViT without a head"):
        fold(ViT("Nano/2", image_size=8, num_classes=None))
    with pytest.raises(InputError, match=r"not Sequential: build or load one with keras_vit.ViT"):
        fold(keras.Sequential())
    mixed = keras.Sequential([random_vit(), keras.layers.Dense(3)])
    with pytest.raises(InputError, match=r"not Sequential with layers that this package .* know \(Dense\)"):
        fold(mixed)
    with pytest.raises(InputError, match="not str: build or load one"):
        fold("model.keras")
