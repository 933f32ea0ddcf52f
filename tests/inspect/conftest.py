"""A model that is made to look at bright patches, and nowhere else."""

import numpy as np
import pytest

from keras_vit import ViT


@pytest.fixture
def looker():
    """A function of (some) arguments of `ViT`: the scores are the brightness of a patch, all else is 0."""

    def make(image_size, patch_size, num_classes=3, **options):
        shape = {"width": 8, "depth": 2, "num_heads": 2, "mlp_width": 8, "patch_size": patch_size}
        model = ViT("Nano/2", image_size, num_classes, **shape, **options)
        for variable in model.weights:
            if not variable.path.endswith("scale"):
                variable.assign(np.zeros(variable.shape))
        kernel = np.zeros(model.patches.projection.kernel.shape)
        kernel[:, 0] = 1 / len(kernel)  # channel 0 of a token is the mean of its pixels
        model.patches.projection.kernel.assign(kernel)
        for block in model.blocks:
            block.attention.query.bias.assign(np.ones(8))
            keys = np.zeros((8, 8))
            keys[0] = 2.0
            block.attention.key.kernel.assign(keys)
        if num_classes:
            model.head.bias.assign(np.log(np.arange(1, num_classes + 1)))
        return model

    return make
