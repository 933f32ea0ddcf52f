"""Random values for every variable, zeros and ones included, so that no part of a model is idle."""

import numpy as np


def randomize(model, seed=0):
    """Fill `model` in place and return it."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        size = 1 / np.sqrt(variable.shape[0]) if variable.path.endswith("kernel") else 0.2
        variable.assign(random.normal(1.0 if variable.path.endswith("scale") else 0.0, size, variable.shape))
    return model
