"""`keras-vit train`: pictures, or several modalities, become a RUN."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    check_data,
    check_model,
    find_devices,
    is_multimodal,
    load_images,
    load_multimodal,
    parse_image_size,
    start_from,
)
from keras_vit.commands.options import (
    Accumulate,
    Augment,
    BatchSize,
    Channels,
    Data,
    DataService,
    Dropout,
    Ema,
    Epochs,
    Freeze,
    ImageSize,
    LabelSmoothing,
    LearningRate,
    NewRun,
    Pooling,
    Precision,
    RecipeName,
    SaveMinutes,
    Seed,
    ShownProgress,
    SkipBad,
    Strategy,
    TensorBoard,
    Variant,
    WarmupEpochs,
    WeightDecay,
)
from keras_vit.commands.terminal import console, say, without_chatter
from keras_vit.errors import InputError, NotInstalled, one_of
from keras_vit.files import finite
from keras_vit.scenarios import SCENARIOS


def train(
    data: Data,
    out: NewRun,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Fine-tune this RUN, model.keras or checkpoint; a head that does not fit is fresh."
        ),
    ] = None,
    variant: Variant = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    recipe: RecipeName = None,
    pooling: Pooling = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    warmup_epochs: WarmupEpochs = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    dropout: Dropout = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the learning rate from each block to the one before.")
    ] = None,
    freeze: Freeze = None,
    augment: Augment = None,
    precision: Precision = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Stop after N epochs without a better held-out accuracy; keep the best."),
    ] = None,
    ema: Ema = None,
    accumulate: Accumulate = None,
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
    seed: Seed = None,
    fusion: Annotated[
        str | None, typer.Option(help="Several modalities: single_stream or bottleneck.")
    ] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Several modalities: how often one is left out in training.")
    ] = None,
    sentence: Annotated[
        int | None, typer.Option(help="Make a visual sentence of so many tokens of each text.")
    ] = None,
    strategy: Strategy = "auto",
    progress: ShownProgress = "bar",
    save_minutes: SaveMinutes = 10.0,
    tensorboard: TensorBoard = False,
    skip_bad: SkipBad = False,
    data_service: DataService = None,
) -> None:
    """Train a Vision Transformer on your pictures, or on several modalities."""
    size = parse_image_size(image_size)
    shown = reporting(out, progress, save_minutes, tensorboard)
    check_data(data)
    check_model(start, "--start")
    check_model(teacher, "--teacher")
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
                "--channels": channels,
                "--pooling": pooling,
                "--layer-decay": layer_decay,
                "--freeze": freeze,
                "--augment": augment,
                "--data-service": data_service,
                "--teacher": teacher,
                "--distill": distill,
                "--distill-weight": distill_weight,
                "--temperature": temperature,
                "--distillation-token": distillation_token,
            },
            {"image_size": size, "variant": variant, "sentence": sentence},
            {"fusion": fusion, "modality_dropout": modality_dropout},
            skip_bad,
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
    devices = None
    if start is not None:
        devices = find_devices(strategy)  # first: workers must meet before TensorFlow does anything
    started, size, variant, pooling = start_from(start, data, size, variant, pooling)
    from keras_vit.training import recipes

    chosen = recipes.recipe(
        recipe,
        image_size=size,
        channels=channels,
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
    loaded = load_images(data, size, skip_bad, data_service, chosen.model_config().channels)
    if started is None:
        devices = find_devices(strategy)
    teaching = None
    if teacher is not None:
        from keras_vit.training.methods.distillation import load_teacher

        with without_chatter():
            teaching = load_teacher(teacher, loaded.labels)
    from keras_vit.training.trainer import train

    train_and_say(train, loaded, out, chosen, shown, start=started, teacher=teaching, strategy=devices)


def reporting(out, progress, save_minutes, tensorboard):
    """The arguments of `training.train` that the options of the same names mean."""
    one_of("progress", progress, ("bar", "json", "quiet"))  # before anything slow
    if not 0 <= save_minutes < float("inf"):
        raise InputError(f"--save-minutes is 0 (after each step) or more, not {save_minutes:g}.")
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise NotInstalled("--tensorboard", "tensorboard", extra="tensorboard")
    return {
        "progress": progress,
        "save_seconds": 60 * save_minutes,
        "tensorboard": out / "tensorboard" if tensorboard else None,
    }


def train_and_say(train, data, out, recipe, shown, **options):
    """Train, and say in a line how it ended.

    Args:
        train: `training.train` or `training.pretrain`.
        shown: what `reporting` gave.
        options: further ones of `train`.
    """
    start = time.monotonic()
    history = train(data, out, recipe, console(), **shown, **options)
    last = history[-1]
    scores = ", ".join(
        f"{words} {last[name]:.4f}"
        for name, words in (("val_accuracy", "held-out top-1"), ("val_loss", "held-out loss"))
        if name in last
    )
    if shown["progress"] == "json":
        print(json.dumps(finite({"event": "end", "run": str(out), "epochs": len(history), **last})))
    elif shown["progress"] == "bar":
        minutes = (time.monotonic() - start) / 60
        say(f"{out}: {scores} after {len(history)} epochs; this took {minutes:.1f} minutes")


def _train_multimodal(data, out, strategy, shown, idle, shape, model, skip_bad, **training):
    """`train` for several modalities.

    Args:
        strategy: what --strategy says.
        shown: what `reporting` gave.
        idle: {option: value} of those that have no meaning here.
        shape: what --image-size, --variant and --sentence say.
        model: arguments of `MultimodalViT`.
        skip_bad: see `load_examples`.
        training: fields of the recipe.
    """
    for option, value in idle.items():
        if value is not None:
            raise InputError(f"{option} is for models of images alone, and {data} has several modalities.")
    devices = find_devices(strategy)
    from keras_vit.data.cell_readers import Options
    from keras_vit.scenarios import scenario
    from keras_vit.training.recipes import multimodal_recipe, trunk
    from keras_vit.training.trainer import train

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
    options = Options(shape["image_size"], patch_size, sentence=shape["sentence"])
    loaded = load_multimodal(data, options, skip_bad=skip_bad)
    chosen = multimodal_recipe(loaded, variant={**variant, **model}, **training)
    train_and_say(train, loaded, out, chosen, shown, strategy=devices)


SHAPE_OPTIONS = ("--image-size", "--variant", "--sentence")
