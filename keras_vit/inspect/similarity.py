"""`position_similarity`: which places look alike to a model."""

import keras
import numpy as np
from keras import ops

from keras_vit.errors import InputError
from keras_vit.inspect.capture import vit_in
from keras_vit.layers.positions import Positions


def position_similarity(model: keras.Model) -> np.ndarray:
    """Cosine similarity of the patches' position encodings (Dosovitskiy et al. 2020, figure 7, centre).

    Args:
        model: a `ViT` whose positions are added to the tokens.

    Returns:
        float32 [rows * columns, rows * columns], patches row by row. An encoding of only zeros (the
        middle of "coordinates" positions) has similarity 0 to all.

    Raises:
        InputError: positions that are no table ("rotary2d", "relative", "none"), or a folded model.
    """
    vit = vit_in(model)
    if not isinstance(vit.positions, Positions):
        raise InputError(
            f"position={vit.config.position!r} adds no encoding to the tokens, so there is no table: "
            "use a model with learned, sinusoidal or other added positions."
        )
    if not (vit.config.patch_bias and vit.config.norm_centre):
        raise InputError(
            "the positions of a folded or quantization-aware model contain the bias of the patches: "
            "give the float model that it came from."
        )
    table = ops.convert_to_numpy(vit.positions.encode())[0].astype("float64")
    length = np.linalg.norm(table, axis=1, keepdims=True)
    table = table / np.where(length > 0, length, 1)
    return (table @ table.T).astype("float32")
