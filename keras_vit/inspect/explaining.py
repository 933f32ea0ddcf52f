"""`explain`: `keras-vit explain MODEL IMAGE --out PNG`."""

import contextlib
import importlib
import json
import zipfile
from pathlib import Path

from keras_vit.answers import output_name
from keras_vit.data.multimodal import one_example
from keras_vit.errors import InputError
from keras_vit.files import find_labels, open_regular
from keras_vit.inspect.capture import model_in
from keras_vit.inspect.multimodal import draw_multimodal_explanation
from keras_vit.inspect.plots import Predictions, check_suffix, draw_explanation
from keras_vit.models.multimodal import MultimodalViT
from keras_vit.models.saved import load_saved

WAY_OUT = "explain looks inside the Keras model, e.g. RUN/model.keras, or RUN itself."


def explain(
    model_path: str | Path, image_path: str | Path | None, out: str | Path, **others: str | Path | None
) -> "Predictions":
    """Draw what the model of a RUN looked at: `draw_explanation`, from files to a file.

    Args:
        model_path: a RUN folder, or a model.keras with labels.txt beside it or up to three folders above.
        image_path: a picture file; None where a multimodal model is given none.
        out: the picture to draw, a .png for instance.
        **others: of a multimodal model, its other inputs as for `keras-vit predict`: text, audio, ...

    Returns:
        list of (label, probability) of the five most probable classes; of a model with activation=None
        (label, logit).

    Raises:
        InputError: a .tflite file, a SavedModel or something else that is no model of ours; no picture; a
            suffix of `out` that nobody can draw.
    """
    check_suffix(out)
    path = _model_file(Path(model_path))
    if image_path is not None and not Path(image_path).is_file():
        raise InputError(f"there is no picture {str(image_path)!r}: give one file.")
    model = _load(path)
    inside = model_in(model)
    labels = find_labels(path, inside.num_classes, output_name(inside.activation))
    cells = {name: value for name, value in {"image": image_path, **others}.items() if value is not None}
    if not isinstance(inside, MultimodalViT):
        if set(cells) != {"image"}:
            raise InputError(f"{path} takes a picture alone, not {', '.join(cells) or 'nothing'}.")
        return draw_explanation(model, Path(image_path), out, labels)
    return draw_multimodal_explanation(model, one_example(inside.modalities, cells), out, labels)


def _model_file(path):
    if not path.exists():
        raise InputError(f"there is no {path}: {WAY_OUT}")
    if path.is_dir():
        if (path / "model.keras").is_file():
            return path / "model.keras"
        descriptions = {
            "saved_model.pb": "a SavedModel",
            "*/saved_model.pb": "a SavedModel",
            "*.tflite": "an export",
        }
        what = next((what for pattern, what in descriptions.items() if any(path.glob(pattern))), "no RUN")
        raise InputError(f"{path} is {what}, without a model.keras: {WAY_OUT}")
    with open_regular(path) as file:  # a pipe would wait
        is_tflite = file.read(8)[4:] == b"TFL3"  # its metadata makes a .zip of it, too
    if is_tflite or not zipfile.is_zipfile(path):
        what = "a TFLite file" if is_tflite or path.suffix == ".tflite" else "no Keras file, or a damaged one"
        raise InputError(f"{path} is {what}: {WAY_OUT}")
    return path


def _load(path):
    with contextlib.suppress(Exception):  # what is wrong with it, Keras says below
        with zipfile.ZipFile(path) as file:
            module = json.loads(file.read("config.json"))["module"]
        if module.startswith("keras_vit."):
            importlib.import_module(module)  # Keras finds a class only after the import that registers it
    model = load_saved(path, WAY_OUT.rstrip("."))
    try:
        model_in(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return model
