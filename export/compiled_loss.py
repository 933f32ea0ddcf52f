"""Whether the loss that a model was compiled with means the same by its logits as its `activation`."""

import warnings

import keras

from keras_vit.errors import Notice

# Losses by their names without case and underscores, as a class, a function or a text gives them.
MEANING = {
    "categoricalcrossentropy": "softmax",
    "sparsecategoricalcrossentropy": "softmax",
    "categoricalfocalcrossentropy": "softmax",
    "smoothedcrossentropy": "softmax",
    "binarycrossentropy": "sigmoid",
    "binaryfocalcrossentropy": "sigmoid",
    "meansquarederror": None,
    "meanabsoluteerror": None,
    "huber": None,
    "logcosh": None,
}


def notice_loss(model):
    """Warn with a `Notice` if a compiled model has a loss that its files will not answer to.

    Nothing is said of losses that are not in `MEANING`, nor of a model that is not compiled: a model that was
    loaded with `compile=False` does not know its loss.
    """
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict | list | tuple) and len(loss) == 1:
        loss = next(iter(loss.values())) if isinstance(loss, dict) else loss[0]
    if not getattr(model, "compiled", False) or loss is None or isinstance(loss, dict | list | tuple):
        return
    loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    key = name.replace("_", "").lower()
    if key not in MEANING:
        return
    meant, activation = MEANING[key], model.activation
    if meant != activation:
        way = f"set model.activation = {meant!r}"
        if meant == "softmax" and model.num_classes == 1:
            way = "train with a BinaryCrossentropy, or with num_classes=2"
        warnings.warn(
            f"the model was compiled with {name}, which goes with activation={meant!r}, and has "
            f"activation={activation!r}, which is what its files answer with: {way} before the export if the "
            "loss is what you mean.",
            Notice,
            stacklevel=3,
        )
    elif meant is not None and not getattr(loss, "from_logits", False):
        warnings.warn(
            f"the model was compiled with {name} of probabilities, but it gives logits, so it did not learn "
            "what that loss says: compile it with the loss class, from_logits=True, and train again.",
            Notice,
            stacklevel=3,
        )
