"""`pretrain`: a RUN whose model has learned from pictures without their labels, by `train`'s own loop.

Its model.keras is a `MaskedViT`; `train --start RUN` fine-tunes the encoder in it, `probe` evaluates it.
"""

from pathlib import Path

import keras
import numpy as np

from keras_vit.distributed.strategies import is_chief
from keras_vit.inspect.reconstructions import draw_reconstructions
from keras_vit.training.trainer import train

SHOWN = 8  # pictures in reconstructions.png


def pretrain(data, out, recipe, console=None, strategy=None, **options):
    """Train a `MaskedViT` on the pictures of `data` into the folder `out`, or continue there.

    RUN/reconstructions.png shows held-out pictures, what the model saw of them, and what it made of it.

    Args:
        data: an `ImageData`; nothing looks at its labels.
        recipe: a `PretrainingRecipe`.
        out, console, strategy, **options: as of `train`.

    Returns:
        list of the epochs' metrics: loss and val_loss.
    """
    history = train(data, out, recipe, console, strategy=strategy, **options)
    if is_chief(strategy):
        draw_run(data, out)
    return history


def draw_run(data, out):
    """Draw the reconstructions.png of the pretraining RUN `out`."""
    masked = keras.models.load_model(Path(out) / "model.keras", compile=False)
    # Over the classes, which lie one after the other.
    shown = np.linspace(0, len(data.test) - 1, min(SHOWN, len(data.test))).astype(int)
    draw_reconstructions(masked, data.test.images[shown], Path(out) / "reconstructions.png")
