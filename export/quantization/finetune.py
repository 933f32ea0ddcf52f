"""`finetune`: quantization-aware training of a RUN, into RUN/quantized/PROFILE/."""

import dataclasses
import math
from pathlib import Path

import keras
from keras import ops
from rich.console import Console

from keras_vit.answers import labels_fit, output_name
from keras_vit.errors import InputError
from keras_vit.export.profiles import profile_named
from keras_vit.export.quantization.calibration import Calibration
from keras_vit.export.quantization.finetune_schema import Comparison, Quantized
from keras_vit.export.quantization.model import QuantizeAware
from keras_vit.export.quantization.post_training import post_training
from keras_vit.export.tflite.fold import in_float32
from keras_vit.export.verification.manifest import digest
from keras_vit.files import atomic_write, write_json
from keras_vit.formats import read_document
from keras_vit.models import MaskedViT, MultimodalViT, ViT
from keras_vit.models.saved import load_saved
from keras_vit.training.curves import draw_curves
from keras_vit.training.methods.distillation import Distillation
from keras_vit.training.recipes import recipe_from
from keras_vit.training.runs import check_same_data, read_run
from keras_vit.training.trainer import fit, top1

AGAIN = "delete that folder, and quantize again"


def finetune(run, profile, data, epochs=None, learning_rate=None, console=None, distill=0.0):
    """Fine-tune the model of the RUN folder `run` under fake quantization; keep the best epoch.

    The start, which is post-training quantization, competes: where no epoch is better, it is kept.
    RUN/quantized/PROFILE/ gets model.keras (a `QuantizeAware` model), history.json, curves.png and
    comparison.json: top-1, on `data.choosing`, of the float model, of its post-training quantization, which
    is where the training starts, of the best epoch, and which of the two was kept. An interrupted call
    goes on when it is repeated.

    Args:
        run: a finished RUN folder.
        profile: name of a quantized profile.
        data: the `ImageData` or `MultimodalData` that the run was trained on.
        epochs: default 1/10 of the run's, between 3 and 10.
        learning_rate: the peak; default 1/10 of the run's.
        distill: weight of the loss that pulls its answers to the float model's, see `teach`.

    Returns:
        list of the epochs' metrics.

    Raises:
        InputError: no such run, other data, unknown profile, a weight that is none.
    """
    check_distill(distill)
    run, profile = Path(run), profile_named(profile, quantized=True)
    config = read_run(run)
    check_same_data(config, data, run)
    model = load_model(run)
    if not labels_fit(len(config["labels"]), model.num_classes, output_name(model.activation)):
        raise InputError(
            f"{run}/config.json names {len(config['labels'])} classes, and model.keras has "
            f"{model.num_classes}: "
            "restore the file that is wrong, or train into another --out."
        )
    trained = recipe_from(config["recipe"])
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
        ema=0.0,
        distill="none",
        distillation_token=False,
    )
    keras.utils.set_random_seed(recipe.seed)
    aware = post_training(model, profile.name, Calibration(data))
    folder = run / "quantized" / profile.name
    options = {"recipe": recipe.to_dict(), "model": digest(run / "model.keras")}
    _start_again_if_changed(folder, options | ({"distill": distill} if distill else {}))
    if not (folder / "comparison.json").exists():
        found = {"float": top1(model, data.choosing), "post_training": top1(aware, data.choosing)}
        write_json(folder / "comparison.json", found)
    loss = FloatModelLoss(in_float32(model), distill) if distill else None
    console = console or Console(stderr=True)
    history = fit(aware, data, folder, recipe, console, profile.name, keep="best", loss=loss)
    found = read_document(folder / "comparison.json", Comparison, AGAIN)
    found["trained"] = max(row["val_accuracy"] for row in history)
    worse = found["trained"] < found["post_training"] - 1e-6  # the former comes out of float32
    found["kept"] = "post_training" if worse else "trained"
    if found["kept"] == "post_training":
        with atomic_write(folder / "model.keras") as temporary:
            post_training(model, profile.name, Calibration(data)).save(temporary)
    write_json(folder / "comparison.json", found)
    draw_curves(history, folder / "curves.png")
    return history


def check_distill(weight):
    """Refuse what is no weight of a loss."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise InputError(f"distill is the weight of a loss, 0 or more, not {weight!r}.")


class FloatModelLoss:
    """The loss of a quantized model for `TrainingModel`: its own + weight * mean KL(float || quantized).

    Hinton et al. 2015, arXiv:1503.02531, at temperature 1, on the same augmented batch; what stands for KL
    where the logits are no softmax's, says `methods.distillation`. Only training has it: held-out losses
    stay comparable. What is saved and resumed has the same variables as without.

    Args:
        model: the float model, which takes the same inputs; it is not trained.
    """

    def __init__(self, model: keras.Model, weight: float) -> None:
        self.model, self.weight = model, weight
        self.distillation = Distillation("soft", activation=model.activation)

    def __call__(self, label_loss, x, y, y_pred, sample_weight=None):
        target = ops.stop_gradient(self.model(x, training=False))
        loss = label_loss(x, y, y_pred, sample_weight)
        return loss + self.weight * self.distillation(target, y_pred, sample_weight=sample_weight)

    def logits(self, y_pred):
        """The logits [B, num_classes] as they are."""
        return y_pred


def _start_again_if_changed(folder, config):
    """Forget the progress in `folder` when it was made with other options or from another model."""
    path = folder / "config.json"
    if not path.exists() or read_document(path, Quantized, AGAIN) != config:
        for name in ("state.safetensors", "history.json", "comparison.json"):
            (folder / name).unlink(missing_ok=True)
        write_json(path, config)  # last: the old model stays until there is a new one


def about_run(run, config, profiles=()):
    """What a manifest notes about the RUN that a model came from.

    Args:
        config: its config.json.
        profiles: those whose trained models are exported.
    """
    run = Path(run)
    noted = {**config["data"], "model_sha256": digest(run / "model.keras")}
    if "checkpoint" in config:
        noted["checkpoint"] = config["checkpoint"]
    for name in profiles:
        folder = run / "quantized" / name
        top1 = folder / "comparison.json"
        noted.setdefault("quantized", {})[name] = {
            "model_sha256": digest(folder / "model.keras"),
            "distill": read_document(folder / "config.json", Quantized, AGAIN).get("distill", 0.0),
            "top1": read_document(top1, Comparison, AGAIN) if top1.exists() else None,
        }
    return noted


def load_model(run):
    """The float `ViT` or `MultimodalViT` of the RUN folder `run`."""
    model = _load(Path(run) / "model.keras", f"`keras-vit train ... --out {run}` was interrupted early")
    if isinstance(model, MaskedViT):
        raise InputError(
            f"{run} was pretrained without labels, and knows no classes yet: `keras-vit train DATA --start "
            f"{run} --out ANOTHER` teaches it some."
        )
    if not isinstance(model, ViT | MultimodalViT):
        kind = type(model).__name__
        raise InputError(f"{run}/model.keras holds a {kind}, no ViT: train into another --out.")
    return model


def load_trained(run):
    """{profile: `QuantizeAware` model} of all profiles that the RUN folder was fine-tuned for."""
    found = {path.parent.name: path for path in sorted((Path(run) / "quantized").glob("*/model.keras"))}
    return {
        name: model for name, path in found.items() if isinstance(model := _load(path, ""), QuantizeAware)
    }


def _load(path, why):
    if not path.exists():
        raise InputError(f"there is no {path}: {why or 'train first'}. Run it again.")
    return load_saved(path, "train again")
