"""`load_saved`: the model in a .keras file of any origin."""

import zipfile
from pathlib import Path

import keras

from keras_vit.errors import InputError
from keras_vit.files import open_regular


def load_saved(path: str | Path, way_out: str) -> keras.Model:
    """The Keras model in a file, not compiled. No code that is stored in it runs (Keras' `safe_mode`).

    Args:
        way_out: ends the error, e.g. "train again".

    Raises:
        InputError: no such file, a pipe or a device, no Keras file, a damaged one, a class that is not known,
            or weights that are NaN or infinite.
    """
    with open_regular(path):
        pass
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no Keras file, or a damaged one: {way_out}.")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts raise: KeyError, TypeError, OSError ...
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{path} cannot be loaded as a Keras model ({why}): {way_out}.") from error
    bad = [weight.path for weight in model.weights if not _is_finite(weight)]
    if bad:
        raise InputError(
            f"{path} holds NaN or infinity in {len(bad)} weights ({', '.join(bad[:5])}"
            f"{', ...' if len(bad) > 5 else ''}): its training failed, or it is damaged; {way_out}."
        )
    return model


def _is_finite(weight):
    if "float" not in keras.backend.standardize_dtype(weight.dtype):
        return True
    return bool(keras.ops.all(keras.ops.isfinite(keras.ops.convert_to_tensor(weight))))
