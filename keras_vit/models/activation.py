"""What the logits of a head mean: the activation between a model's logits and the answers of its files.

A model gives logits, which losses take with `from_logits=True`. Whoever answers with it, an exported file, a
server, `predict`, applies `activate` to them: the one place where that is done.
"""

from typing import Any

from keras import ops

from keras_vit.errors import InputError
from keras_vit.mixin import Mixin

AUTO = "auto"
ACTIVATIONS = ("softmax", "sigmoid", None)


def default_activation(num_classes: int | None) -> str:
    """What "auto" means: "sigmoid" for one logit, since a softmax over one number is always 1."""
    return "sigmoid" if num_classes == 1 else "softmax"


def checked_activation(activation: str | None, num_classes: int | None) -> str | None:
    """One of `ACTIVATIONS`, "auto" resolved. Raises InputError for another, or a softmax over one logit."""
    if activation == AUTO:
        return default_activation(num_classes)
    if activation is not None and activation not in ACTIVATIONS:
        raise InputError(
            f"activation must be 'softmax', 'sigmoid', None or 'auto', not {activation!r}: it says what "
            "exported files make of the logits."
        )
    if activation == "softmax" and num_classes == 1:
        raise InputError(
            "activation='softmax' with num_classes=1 is always 1.0: use activation='sigmoid' (for a "
            "BinaryCrossentropy), None (for a number), or num_classes=2."
        )
    return activation


class WithActivation(Mixin):
    """Gives a model that has `num_classes` the attribute `activation`: one of `ACTIVATIONS`."""

    @property
    def activation(self) -> str | None:
        return self._activation

    @activation.setter
    def activation(self, activation: str | None) -> None:
        self._activation = checked_activation(activation, self.num_classes)


def inherited_activation(model: Any) -> str | None:
    """The activation of a model made from `model`, perhaps of other classes: "auto" if nothing was chosen."""
    return AUTO if model.activation == default_activation(model.num_classes) else model.activation


def activate(logits: Any, activation: str | None) -> Any:
    """Logits [B, num_classes] as a file answers them, float32 [B, num_classes].

    Args:
        logits: of any floating dtype; computed in float32, as losses do.
        activation: "softmax" (probabilities that sum to one), "sigmoid" (of each class on its own) or None
            (the logits).
    """
    logits = ops.cast(logits, "float32")
    if activation is None:
        return logits
    return ops.sigmoid(logits) if activation == "sigmoid" else ops.softmax(logits, axis=-1)
