"""The bright thirds as an `ImageData`, and a recipe for a ViT so small that it trains in seconds."""

import io

import numpy as np
from bright_thirds import SIZE, problem
from rich.console import Console

from keras_vit import ViT
from keras_vit.data.image_data import Split
from keras_vit.training import ImageData, recipe

TINY = {"patch_size": [4, 4], "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 16}


def thirds(train=44, test=24):
    """44 pictures: three batches of 16, the last of them smaller."""
    splits = [Split(*problem(count, seed), []) for seed, count in enumerate((train, test))]
    return ImageData(*splits, ["top", "middle", "bottom"], "thirds", "0" * 16, [])


def vit(num_classes=3, seed=0, image_size=SIZE, **options):
    """A `ViT` of that size whose heads say something, unlike fresh ones."""
    model = ViT(
        {**TINY, "pooling": options.pop("pooling", "cls")},
        image_size=image_size,
        num_classes=num_classes,
        **options,
    )
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape, scale=0.3).astype("float32") for w in model.get_weights()])
    return model


def tiny_recipe(**options):
    usual = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0, "learning_rate": 1e-2, "augment": "none"}
    return recipe("small", image_size=SIZE, **{"variant": dict(TINY), **usual, **options})


def silent():
    return Console(file=io.StringIO())
