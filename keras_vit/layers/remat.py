"""`rematerialised`: keep a block's input only, and compute the block again in the backward pass."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from keras_vit._compat import flatten_layers
from keras_vit.config import Tensor


def rematerialised(layer: keras.layers.Layer, forward: Callable[..., Tensor], *tensors: Any) -> Tensor:
    """`forward(*tensors)`, whose intermediate values are not kept for the gradient.

    What needs a gradient must be among the tensors (TensorFlow sees no others, but for variables);
    some may be None. The second computation must draw the same random numbers as the first, so
    every seed of `layer` is drawn here, outside, and pinned while `forward` runs.
    """
    generators = list(_seed_generators(layer))
    seeds = [generator.next() for generator in generators]
    given = [tensor for tensor in tensors if tensor is not None]

    def run(*given):
        given = iter(given)
        arguments = [None if tensor is None else next(given) for tensor in tensors]
        with contextlib.ExitStack() as stack:
            for generator, seed in zip(generators, seeds, strict=True):
                stack.enter_context(_pinned(generator, seed))
            return forward(*arguments)

    return keras.remat(run)(*given)


def _seed_generators(layer):
    for part in flatten_layers(layer):
        generator = getattr(part, "seed_generator", None)
        if generator is not None:
            yield generator


@contextlib.contextmanager
def _pinned(generator, seed):
    """Within, the seed generator answers `seed` and its state stays as it is."""
    generator.next = lambda ordered=True: seed
    try:
        yield
    finally:
        del generator.next
