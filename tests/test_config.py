"""Variant strings and `ViTConfig`: sizes, and a message for each mistake."""

import dataclasses

import pytest

from keras_vit import ViT
from keras_vit.config import ViTConfig, pair
from keras_vit.errors import InputError, one_of
from keras_vit.old_names import CONFIG_OF_FOLDED


def test_variant_strings_give_the_published_sizes():
    config = ViTConfig.of("L/14")
    assert (config.width, config.depth, config.num_heads, config.mlp_width) == (1024, 24, 16, 4096)
    assert config.patch_size == (14, 14)
    assert ViTConfig.of("B/16x8").patch_size == (16, 8)


def test_a_size_is_of_whole_numbers():
    assert pair((8.0, 4), "image_size") == (8, 4)
    for value in ((8.5, 8), ("8", "8"), 8.5, (8, float("nan")), (8, 8, 0.5)):
        with pytest.raises(InputError, match="image_size must be a positive integer or"):
            pair(value, "image_size")


def test_a_config_survives_its_dictionary():
    config = ViTConfig.of("S/8x4", pooling="mean", dropout=0.1, merge=(3, 9), layer_scale=0.1)
    assert ViTConfig.of(config.to_dict()) == config


def test_the_grid_is_rows_by_columns():
    assert ViTConfig.of("Ti/16x8").grid((64, 96)) == (4, 12)


def test_the_phone_preset_is_ti_with_two_parts_changed():
    phone, plain = ViTConfig.of("phone/16").for_size(224), ViTConfig.of("Ti/16")
    assert (phone.merge, phone.registers) == ((4, 36), 11)
    assert dataclasses.replace(phone, merge=None, registers=0) == plain
    assert ViTConfig.of("phone/16", merge=None).merge is None


@pytest.mark.parametrize(
    ("changes", "size", "registers"),
    [({}, 224, 11), ({"pooling": "mean"}, 224, 12), ({"distilled": True}, 224, 10), ({}, 256, 15)],
)
def test_registers_of_none_fill_up_to_a_multiple_of_16(changes, size, registers):
    config = ViTConfig.of("Ti/16", registers=None, **changes)
    assert config.for_size(size).registers == registers
    model = ViT("Nano/4", image_size=16, num_classes=2, registers=None, **changes)
    assert (model.prefix + 16) % 16 == 0


def test_folded_of_old_files_becomes_fields():
    assert ViTConfig.of({"folded": []}) == ViTConfig()
    assert ViTConfig.of({"folded": ["key_bias"]}) == ViTConfig(key_bias=False)
    whole = ViTConfig.of({"folded": list(CONFIG_OF_FOLDED)})
    assert whole.attention_scale == 1.0
    fields = ("attention_average", "key_bias", "value_bias", "patch_bias", "norm_affine", "norm_centre")
    assert not any(getattr(whole, field) for field in fields)
    assert ViTConfig.of(whole.to_dict()) == whole


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViTConfig.of("Tiny/16"), r"unknown variant 'Tiny/16': .*Ti/PATCH"),
        (lambda: ViTConfig.of("Ti16"), r"unknown variant 'Ti16'"),
        (lambda: ViTConfig.of(16), r"not int"),
        (
            lambda: ViTConfig.of("Ti/16", pooling="max"),
            r"unknown pooling 'max': .*cls, mean, attention, None",
        ),
        (lambda: ViTConfig.of("Ti/16", position="sin"), r"unknown position 'sin': .*learned"),
        (
            lambda: ViTConfig.of("Ti/16", poling="cls"),
            r"unknown ViTConfig field 'poling'.*Did you mean 'pooling'",
        ),
        (lambda: ViTConfig(width=100, num_heads=3), r"width 100 is not a multiple of num_heads 3.*width=99"),
        (lambda: ViTConfig(depth=0), r"depth must be a positive integer, not 0"),
        (lambda: ViTConfig(depth=True), r"depth must be a positive integer"),
        (lambda: ViTConfig(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: ViTConfig(patch_size=0), r"patch_size must be"),
        (lambda: ViTConfig(stem="pool"), r"unknown stem 'pool': .*linear, conv, overlapping, compact"),
        (lambda: ViTConfig(attention="sparse"), r"unknown attention 'sparse': .*soft, hard, relu"),
        (lambda: ViTConfig(mlp="relu"), r"unknown mlp 'relu': .*gelu, gelu_tanh, swiglu"),
        (lambda: ViTConfig(registers=-1), r"registers must be a non-negative integer, not -1"),
        (lambda: ViTConfig(registers=1.5), r"registers must be a non-negative integer, not 1.5"),
        (
            lambda: ViTConfig(norm_affine="no"),
            r"norm_affine must be True or False, not 'no'",
        ),
        (
            lambda: ViTConfig(attention_scale=0),
            r"attention_scale must be a number above 0, not 0",
        ),
        (lambda: ViTConfig(attention="hard"), r"top_k, which attention='hard' needs, must be .*not None"),
        (lambda: ViTConfig(attention="hard", top_k=0), r"top_k.*must be a positive integer, not 0"),
        (lambda: ViTConfig(top_k=4), r"top_k=4 belongs to attention='hard', not 'soft'"),
        (lambda: ViTConfig(distilled=True, pooling="mean"), r"use pooling='cls', not 'mean'"),
        (lambda: ViTConfig(distilled=1), r"distilled must be True or False, not 1"),
        (lambda: ViTConfig(remat="yes"), r"remat must be True or False, not 'yes'"),
        (lambda: ViTConfig(layer_scale=float("nan")), r"layer_scale must be a finite number, not nan"),
        (lambda: ViTConfig(epsilon=0), r"epsilon must be a number above 0, not 0"),
        (lambda: ViTConfig(merge=4), r"merge must be \(block, tokens\) or None, not 4"),
        (lambda: ViTConfig(merge=(12, 8)), r"merge before block 12: the blocks are 0 to 11"),
        (lambda: ViTConfig(merge=(3, 0)), r"number of tokens must be a positive integer, not 0"),
        (lambda: ViTConfig(stochastic_depth=1), r"stochastic_depth must be in \[0, 1\), not 1"),
        (lambda: ViTConfig(patch_dropout=-0.1), r"patch_dropout must be in \[0, 1\), not -0.1"),
        (lambda: ViTConfig(attention_dropout=True), r"attention_dropout must be in \[0, 1\), not True"),
        (lambda: ViTConfig.of({"widht": 3}), r"unknown ViTConfig field 'widht'.*Did you mean 'width'"),
        (
            lambda: ViTConfig.of("Ti/16").grid((225, 100)),
            r"225x100 is not a multiple of the patch 16x16.*224x96",
        ),
        (
            lambda: pair((1, 2, 3), "image_size"),
            r"image_size must be a positive integer or \(height, width\)",
        ),
    ],
)
def test_mistakes_say_what_to_do(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_one_of_lists_what_is_known():
    assert one_of("profile", "int8", ["int8"]) == "int8"
    with pytest.raises(InputError, match=r"unknown profile 'int9': the known ones are int8, int4"):
        one_of("profile", "int9", ["int8", "int4"])


def test_a_setting_that_no_recipe_has_is_named():
    from keras_vit.training.recipes import recipe, recipe_from

    sound = recipe("thumbnails").to_dict()
    assert recipe_from(sound).to_dict() == sound
    with pytest.raises(InputError, match="'EPOCHS', which no recipe has"):
        recipe_from({**sound, "EPOCHS": 3})
