"""`keras-vit train`: pictures, or several modalities, become a RUN."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    Data,
    SaveMinutes,
    ShownProgress,
    SkipBad,
    TensorBoard,
    find_devices,
    is_multimodal,
    load_images,
    load_multimodal,
    parse_image_size,
)
from keras_vit.commands.terminal import console, say, without_chatter
from keras_vit.config import PRESETS, VARIANTS
from keras_vit.errors import InputError, one_of
from keras_vit.scenarios import SCENARIOS


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The RUN folder; the same command continues an interrupted run.")],
    start: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune this RUN, model.keras or checkpoint; a head that does not fit is fresh."
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help=f"Model: {', '.join((*VARIANTS, *PRESETS))} with a patch size, e.g. Ti/16."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels, e.g. 224 or 64x96 (height x width). Default: suits the data.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="thumbnails, small or standard. Default: by image size.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="cls or mean.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images for each step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Length of the warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of the label given to all classes.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout rate in the model.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the learning rate from each block to the one before.")
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(help="Keep the patches and that many first blocks as they are.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="none, affine (no mirroring), light (crop, mirror), crop (pad, crop, mirror) or strong "
            "(that, RandAugment, erasing, MixUp or CutMix)."
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Stop after N epochs without a better held-out accuracy; keep the best."),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Evaluate and save the moving average of the weights, e.g. 0.999; 0 is off."),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(help="Compute a batch's gradient in so many parts: the same result in less memory."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from the answers of this RUN, model.keras or checkpoint too.")
    ] = None,
    distill: Annotated[
        str | None,
        typer.Option(help="What of them: hard (its best class, the default) or soft (its probabilities)."),
    ] = None,
    distill_weight: Annotated[
        float | None, typer.Option(help="The teacher's share of the loss; 0.5 by default.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of soft answers; 3 by default.")] = None,
    distillation_token: Annotated[
        bool | None,
        typer.Option("--distillation-token", help="A second [CLS] and head that learn from the teacher."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, dropout.")] = None,
    fusion: Annotated[
        str | None, typer.Option(help="Several modalities: single_stream or bottleneck.")
    ] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Several modalities: how often one is left out in training.")
    ] = None,
    sentence: Annotated[
        int | None, typer.Option(help="Make a visual sentence of so many tokens of each text.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, none, mirrored (GPUs of this machine) or multiworker.")
    ] = "auto",
    progress: ShownProgress = "bar",
    save_minutes: SaveMinutes = 10.0,
    tensorboard: TensorBoard = False,
    skip_bad: SkipBad = False,
):
    """Train a Vision Transformer on your pictures, or on several modalities."""
    size = parse_image_size(image_size)
    shown = reporting(out, progress, save_minutes, tensorboard)
    common = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_epochs": warmup_epochs,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "precision": precision,
        "early_stop": early_stop,
        "ema": ema,
        "accumulate": accumulate,
        "seed": seed,
    }
    if is_multimodal(data):
        _train_multimodal(
            data,
            out,
            strategy,
            shown,
            {
                "--start": start,
                "--recipe": recipe,
                "--pooling": pooling,
                "--layer-decay": layer_decay,
                "--freeze": freeze,
                "--augment": augment,
                "--teacher": teacher,
                "--distill": distill,
                "--distill-weight": distill_weight,
                "--temperature": temperature,
                "--distillation-token": distillation_token,
            },
            {"image_size": size, "variant": variant, "sentence": sentence},
            {"fusion": fusion, "modality_dropout": modality_dropout},
            **common,
        )
        return
    if any(value is not None for value in (fusion, modality_dropout, sentence)):
        raise InputError(
            "--fusion, --modality-dropout and --sentence are for several modalities, and "
            f"{data} has pictures alone: see the README on a folder with train.csv and test.csv."
        )
    taught = [distill, distill_weight, temperature, distillation_token]
    if teacher is None and any(value is not None for value in taught):
        raise InputError(
            "--distill, --distill-weight, --temperature and --distillation-token say how to learn from a "
            "--teacher: give one."
        )
    if teacher is not None:
        distill = distill or "hard"
    devices, started = None, None
    if start is not None:
        devices = find_devices(strategy)  # first: workers must meet before TensorFlow does anything
        from keras_vit.training.imports import load_start, start_options

        with without_chatter():
            started = load_start(start)
        size = size or started.image_size
        variant, pooling = start_options(started, variant, pooling)
    from keras_vit.training.data import suggest_image_size

    size = size or (suggest_image_size(data),) * 2
    from keras_vit.training import recipes

    chosen = recipes.recipe(
        recipe,
        image_size=size,
        variant=variant,
        pooling=pooling,
        layer_decay=layer_decay,
        freeze=freeze,
        augment=augment,
        distill=distill,
        distill_weight=distill_weight,
        temperature=temperature,
        distillation_token=distillation_token,
        **common,
    )
    loaded = load_images(data, size, skip_bad)
    if started is None:
        devices = find_devices(strategy)
    teaching = None
    if teacher is not None:
        from keras_vit.training.distillation import load_teacher

        with without_chatter():
            teaching = load_teacher(teacher, loaded.labels)
    train_and_say(loaded, out, chosen, shown, start=started, teacher=teaching, strategy=devices)


def reporting(out, progress, save_minutes, tensorboard):
    """The arguments of `training.train` that the options of the same names mean."""
    one_of("progress", progress, ("bar", "json", "quiet"))  # before anything slow
    if not 0 <= save_minutes < float("inf"):
        raise InputError(f"--save-minutes is 0 (after each step) or more, not {save_minutes:g}.")
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs TensorBoard: pip install tensorboard.")
    return {
        "progress": progress,
        "save_seconds": 60 * save_minutes,
        "tensorboard": out / "tensorboard" if tensorboard else None,
    }


def train_and_say(data, out, recipe, shown, **options):
    """Train, and say in a line how it ended.

    Args:
        shown: what `reporting` gave.
        options: of `training.train`.
    """
    from keras_vit.training.trainer import train

    start = time.monotonic()
    history = train(data, out, recipe, console(), **shown, **options)
    last = history[-1]
    scores = ", ".join(
        f"{words} {last[name]:.4f}"
        for name, words in (("val_accuracy", "held-out top-1"), ("val_loss", "held-out loss"))
        if name in last
    )
    if shown["progress"] == "json":
        print(json.dumps({"event": "end", "run": str(out), "epochs": len(history), **last}))
    elif shown["progress"] == "bar":
        minutes = (time.monotonic() - start) / 60
        say(f"{out}: {scores} after {len(history)} epochs; this took {minutes:.1f} minutes")


def _train_multimodal(data, out, strategy, shown, idle, shape, model, **training):
    """`train` for several modalities.

    Args:
        strategy: what --strategy says.
        shown: what `reporting` gave.
        idle: {option: value} of those that have no meaning here.
        shape: what --image-size, --variant and --sentence say.
        model: arguments of `MultimodalViT`.
        training: fields of the recipe.
    """
    for option, value in idle.items():
        if value is not None:
            raise InputError(f"{option} is for models of images alone, and {data} has several modalities.")
    devices = find_devices(strategy)
    from keras_vit.scenarios import scenario
    from keras_vit.training.multimodal_data import Options
    from keras_vit.training.recipes import multimodal_recipe, trunk

    model = {key: value for key, value in model.items() if value is not None}
    variant, patch_size = trunk(shape["variant"])
    if data in SCENARIOS:
        if any(value is not None for value in shape.values()):
            raise InputError(f"the scenario {data} has its own model: leave out {', '.join(SHAPE_OPTIONS)}.")
        ours = scenario(data)
        if hasattr(ours, "run"):
            raise InputError(
                f"{data} trains more than one model: `keras-vit demo --scenario {data}` does it all."
            )
        variant = ours.MODEL
        training = {**ours.TRAINING, **{key: value for key, value in training.items() if value is not None}}
    loaded = load_multimodal(data, Options(shape["image_size"], patch_size, sentence=shape["sentence"]))
    chosen = multimodal_recipe(loaded, variant={**variant, **model}, **training)
    train_and_say(loaded, out, chosen, shown, strategy=devices)


SHAPE_OPTIONS = ("--image-size", "--variant", "--sentence")
