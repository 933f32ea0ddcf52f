"""Variant strings and `ViTConfig`: sizes, and a message for each mistake."""

import pytest

from keras_vit.config import ViTConfig, pair
from keras_vit.errors import InputError, one_of


def test_variant_strings_give_the_published_sizes():
    config = ViTConfig.of("L/14")
    assert (config.width, config.depth, config.heads, config.mlp_width) == (1024, 24, 16, 4096)
    assert config.patch_size == (14, 14)
    assert ViTConfig.of("B/16x8").patch_size == (16, 8)


def test_a_config_survives_its_dictionary():
    config = ViTConfig.of("S/8x4", pooling="mean", dropout=0.1)
    assert ViTConfig.of(config.to_dict()) == config


def test_the_grid_is_rows_by_columns():
    assert ViTConfig.of("Ti/16x8").grid((64, 96)) == (4, 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViTConfig.of("Tiny/16"), r"unknown variant 'Tiny/16': .*Ti/PATCH"),
        (lambda: ViTConfig.of("Ti16"), r"unknown variant 'Ti16'"),
        (lambda: ViTConfig.of(16), r"not int"),
        (lambda: ViTConfig.of("Ti/16", pooling="max"), r"unknown pooling 'max': .*cls, mean, None"),
        (lambda: ViTConfig.of("Ti/16", position="sin"), r"unknown position 'sin': .*learned"),
        (
            lambda: ViTConfig.of("Ti/16", poling="cls"),
            r"unknown ViTConfig field 'poling'.*Did you mean 'pooling'",
        ),
        (lambda: ViTConfig(width=100, heads=3), r"width 100 is not a multiple of heads 3.*width=99"),
        (lambda: ViTConfig(depth=0), r"depth must be a positive integer, not 0"),
        (lambda: ViTConfig(depth=True), r"depth must be a positive integer"),
        (lambda: ViTConfig(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: ViTConfig(patch_size=0), r"patch_size must be"),
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
