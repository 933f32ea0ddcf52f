"""`finetune`: quantization-aware training of a RUN, into RUN/quantized/PROFILE/."""

import dataclasses
import hashlib
import json
from pathlib import Path

import keras
from rich.console import Console

from keras_vit.errors import InputError
from keras_vit.export.aware import QuantizeAware, quantize_aware
from keras_vit.export.profiles import profile_named
from keras_vit.files import write_json
from keras_vit.training.curves import draw_curves
from keras_vit.training.recipes import Recipe
from keras_vit.training.runs import check_same_data, read_run
from keras_vit.training.trainer import fit


def finetune(run, profile, data, epochs=None, learning_rate=None, console=None):
    """Fine-tune the model of the RUN folder `run` under fake quantization; keep the best epoch.

    RUN/quantized/PROFILE/ gets model.keras (a `QuantizeAware` model), history.json and curves.png.
    An interrupted call goes on when it is repeated.

    Args:
        run: a finished RUN folder.
        profile: "int8" or "int8_static".
        data: the `ImageData` that the run was trained on.
        epochs: default 1/10 of the run's, between 3 and 10.
        learning_rate: the peak; default 1/10 of the run's.

    Returns:
        list of the epochs' metrics.

    Raises:
        InputError: no such run, other data, unknown profile.
    """
    run, profile = Path(run), profile_named(profile, quantized=True)
    config = read_run(run)
    check_same_data(config, data, run)
    model = load_model(run)
    trained = Recipe(**config["recipe"])
    recipe = dataclasses.replace(
        trained,
        epochs=epochs or min(10, max(3, trained.epochs // 10)),
        learning_rate=learning_rate or trained.learning_rate / 10,
        warmup_epochs=0.5,
        dropout=0.0,
        layer_decay=1.0,
        freeze=0,
        early_stop=0,
        precision="float32",
    )
    keras.utils.set_random_seed(recipe.seed)
    aware = quantize_aware(model, profile.name, calibration=data)
    folder = run / "quantized" / profile.name
    _start_again_if_changed(folder, {"recipe": recipe.to_dict(), "model": _digest(run / "model.keras")})
    history = fit(aware, data, folder, recipe, console or Console(stderr=True), profile.name, keep="best")
    draw_curves(history, folder / "curves.png")
    return history


def _start_again_if_changed(folder, config):
    """Forget the progress in `folder` when it was made with other options or from another model."""
    path = folder / "config.json"
    old = path.read_text(encoding="utf-8") if path.exists() else None
    if old is None or json.loads(old) != config:
        for name in ("state.safetensors", "history.json"):
            (folder / name).unlink(missing_ok=True)
        write_json(path, config)  # last: the old model stays until there is a new one


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_model(run):
    """The float `ViT` of the RUN folder `run`."""
    return _load(Path(run) / "model.keras", f"`keras-vit train ... --out {run}` was interrupted early")


def load_aware(run):
    """{profile: `QuantizeAware` model} of all profiles that the RUN folder was fine-tuned for."""
    found = {path.parent.name: path for path in sorted((Path(run) / "quantized").glob("*/model.keras"))}
    return {
        name: model for name, path in found.items() if isinstance(model := _load(path, ""), QuantizeAware)
    }


def _load(path, why):
    if not path.is_file():
        raise InputError(f"there is no {path}: {why or 'train first'}. Run it again.")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}): train again.") from None
