"""`keras-vit train`: pictures, or several modalities, become a RUN."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import (
    Data,
    SkipBad,
    find_devices,
    is_multimodal,
    load_images,
    load_multimodal,
    parse_image_size,
)
from keras_vit.commands.terminal import console, say, without_chatter
from keras_vit.config import PRESETS, VARIANTS
from keras_vit.errors import InputError
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
        str | None, typer.Option(help="none, affine (no mirroring) or light (crop, mirror).")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or mixed_bfloat16.")] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Stop after N epochs without a better held-out accuracy; keep the best."),
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
    skip_bad: SkipBad = False,
):
    """Train a Vision Transformer on your pictures, or on several modalities."""
    size = parse_image_size(image_size)
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
        "seed": seed,
    }
    if is_multimodal(data):
        _train_multimodal(
            data,
            out,
            strategy,
            {
                "--start": start,
                "--recipe": recipe,
                "--pooling": pooling,
                "--layer-decay": layer_decay,
                "--freeze": freeze,
                "--augment": augment,
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
        **common,
    )
    loaded = load_images(data, size, skip_bad)
    if started is None:
        devices = find_devices(strategy)
    from keras_vit.training.trainer import train

    history = train(loaded, out, chosen, console(), start=started, strategy=devices)
    say(f"{out}: held-out top-1 {history[-1]['val_accuracy']:.4f} after {len(history)} epochs")


def _train_multimodal(data, out, strategy, idle, shape, model, **training):
    """`train` for several modalities.

    Args:
        strategy: what --strategy says.
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
    loaded = load_multimodal(data, Options(shape["image_size"], patch_size, sentence=shape["sentence"]))
    chosen = multimodal_recipe(loaded, variant={**variant, **model}, **training)
    history = train(loaded, out, chosen, console(), strategy=devices)
    say(f"{out}: held-out top-1 {history[-1]['val_accuracy']:.4f} after {len(history)} epochs")


SHAPE_OPTIONS = ("--image-size", "--variant", "--sentence")
