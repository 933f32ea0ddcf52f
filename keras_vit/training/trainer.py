"""`train`: from a data set to a RUN folder, and the loop that quantization-aware training shares.

A RUN holds model.keras, labels.txt, config.json, history.json, curves.png, and while it is not
finished state.safetensors. The same call on the same folder continues where it stopped. What
history.json calls `val_` is of `data.val`, and test.json has the accuracy of model.keras on `data.test`.
Where the data has no `val`, that of `data.test` is in history.json, and there is no test.json.
"""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_vit import __version__
from keras_vit.data.pipeline import distributed, evaluation_batches, steps_per_epoch, training_batches
from keras_vit.data.service import watched
from keras_vit.distributed.strategies import check_batch_size, is_chief
from keras_vit.errors import InputError, Interrupted
from keras_vit.files import write_json
from keras_vit.models import MaskedViT, MultimodalViT, ViT, freeze, is_decayed, learning_rate_scales
from keras_vit.models.activation import AUTO
from keras_vit.training.callbacks import SECONDS, RunCheckpoint
from keras_vit.training.curves import draw_curves
from keras_vit.training.methods.distillation import TeacherLoss
from keras_vit.training.metrics import CountedAccuracy
from keras_vit.training.optimization.averaging import EvaluateAverages
from keras_vit.training.optimization.optimizer import LayerwiseAdamW, SummedAdamW, warmup_cosine
from keras_vit.training.progress import reporter
from keras_vit.training.recipes import MultimodalRecipe, PretrainingRecipe
from keras_vit.training.runs import locked_run, open_run
from keras_vit.training.stopping import Stop
from keras_vit.training.training_model import TrainingLoss, TrainingModel


def train(
    data,
    out,
    recipe,
    console=None,
    start=None,
    teacher=None,
    strategy=None,
    progress="bar",
    save_seconds=SECONDS,
    tensorboard=None,
):
    """Train a `ViT`, a `MaskedViT` or a `MultimodalViT` on `data` into the folder `out`, or continue there.

    Args:
        data: an `ImageData`; or a `MultimodalData`.
        out: the RUN folder; made when missing.
        recipe: a `Recipe`; or a `PretrainingRecipe`, which looks at no labels; or for `MultimodalData` a
            `MultimodalRecipe`.
        console: a rich console for progress.
        start: a model to fine-tune instead of fresh weights. A `ViT`: its parts that do not fit, such as
            the head for other classes, are fresh or resized (see `ViT.rebuilt`), and `recipe.variant` must
            be its config. Or a `MultimodalViT` such as the recipe builds.
        teacher: the `distillation.Teacher` that a recipe with `distill` learns from.
        strategy: what `training.strategy` gave, for several devices or workers; None for one. The weights
            become those of one device but for rounding, and for what is random in the model.
        progress: "bar", "json" (lines on standard output) or "quiet".
        save_seconds: how often the state is saved within an epoch; it is after each one.
        tensorboard: a folder for TensorBoard, with the metrics of each epoch; None for none.

    Returns:
        list of the epochs' metrics.

    Raises:
        InputError: `out` belongs to another data set or recipe, is no run, or another process trains there;
            a teacher without `distill`, or the other way round.
        Interrupted: Ctrl-C or SIGTERM; everything up to the last step is saved.
    """
    out, console = Path(out), console or Console(stderr=True)
    config = {
        "format": 1,
        "keras_vit": __version__,
        "labels": list(data.labels),
        "data": {"source": str(data.source), "fingerprint": data.fingerprint},
        "recipe": recipe.to_dict(),
    }
    check_batch_size(recipe.batch_size, strategy)
    if not isinstance(recipe, MultimodalRecipe):
        check_channels(data.train, recipe.model_config().channels)
    if (teacher is None) != (recipe.distill == "none"):
        raise InputError(
            "distillation takes both: a teacher, and how to learn from it (distill: hard or soft)."
        )
    if teacher is not None:
        config["teacher"] = teacher.to_dict()
    if is_chief(strategy):
        open_run(out, config)
    else:
        console = Console(quiet=True)
    keras.utils.set_random_seed(recipe.seed)
    loss = None
    with scope(strategy):
        model = built(data, recipe, start)
        if teacher is not None:
            how = recipe.distill, recipe.distill_weight, recipe.temperature
            loss = TeacherLoss(model, teacher.model.rebuilt(), *how)
    keep = "best" if recipe.early_stop else "last"
    options = {"progress": progress, "save_seconds": save_seconds, "loss": loss}
    if tensorboard is not None and is_chief(strategy):
        options["callbacks"] = [keras.callbacks.TensorBoard(tensorboard, write_graph=False)]
    history = fit(model, data, out, recipe, console, "train", keep, strategy, **options)
    if is_chief(strategy):
        draw_curves(history, out / "curves.png")
        if data.val is not None and not isinstance(model, MaskedViT):
            accuracy = top1(keras.models.load_model(out / "model.keras", compile=False), data.test)
            write_json(out / "test.json", {"accuracy": accuracy, "examples": len(data.test)})
            console.print(
                f"accuracy on the {len(data.test)} examples of test: {accuracy:.4f}", highlight=False
            )
        elif recipe.early_stop:
            console.print("the best epoch was chosen by the held-out examples: there is no val beside test")
    return history


def top1(model, split):
    """The share of the examples of a `Split` or `Examples` that `model` answers right."""
    batches = evaluation_batches(split, model)
    right = [_decided(model(x, training=False), 0.0) == _decided(y, 0.5) for x, y in batches]
    return float(np.mean(np.concatenate(right)))


def _decided(values, threshold):
    """The class of each row [B, num_classes]; of one class whether it is above the threshold."""
    values = np.asarray(values)
    return values[:, 0] > threshold if values.shape[-1] == 1 else values.argmax(-1)


def check_channels(split, channels):
    """Refuse pictures of other channels than a model's, in a `Split` or a `ServedSplit`."""
    given = split.images.shape[3] if hasattr(split, "images") else split.channels
    if given != channels:
        load = f"load them with channels={channels}, or " if {given, channels} == {1, 3} else ""
        raise InputError(
            f"pictures of {given} channels for a model of {channels}: {load}say channels={given} in the "
            "recipe."
        )


def built(data, recipe, start):
    """The model that `train` trains, with fresh weights or those of `start`."""
    if isinstance(recipe, PretrainingRecipe):
        if start is None:
            return recipe.build(None)
        options = {"image_size": recipe.image_size, "dtype": recipe.precision}
        return recipe.around(start.reset_classifier(None).rebuilt(config=recipe.model_config(), **options))
    if start is None or isinstance(start, MultimodalViT):
        model = recipe.build(len(data.labels))
        if start is not None:
            model.set_weights(start.get_weights())
    else:
        model = start.reset_classifier(None).rebuilt(
            config=recipe.model_config(),
            image_size=recipe.image_size,
            num_classes=len(data.labels),
            activation=AUTO,  # each picture here has one class, whatever `start` told apart
            dtype=recipe.precision,
        )
    if isinstance(model, ViT):
        freeze(model, recipe.freeze)  # 0 thaws a start that came frozen
    else:
        for part in (*model.modalities.values(), *model.blocks):
            part.trainable = part.name not in recipe.freeze
    return model


def fit(
    model: keras.Model,
    data: Any,
    folder: Path,
    recipe: Any,
    console: Console,
    title: str,
    keep: str,
    strategy: tf.distribute.Strategy | None = None,
    progress: str = "bar",
    save_seconds: float = SECONDS,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    loss: TrainingLoss | None = None,
) -> Any:
    """Run the recipe's epochs on `model`, continuing from `folder`'s state if there is one.

    The arguments are those of `train`; `callbacks` are further ones of Keras; `loss` is what the model learns
    from besides the labels.

    Returns:
        list of the epochs' metrics.
    """
    leads, replicas = is_chief(strategy), strategy.num_replicas_in_sync if strategy else 1
    steps = steps_per_epoch(data.train, recipe.batch_size)
    stop = Stop(leads)
    checkpoint = RunCheckpoint(
        folder,
        keep,
        recipe.epochs,
        steps,
        patience=recipe.early_stop,
        seconds=save_seconds,
        stop=stop if leads else None,
        writes=leads,
        alone=strategy is None,
    )
    checkpoint.restore_history()
    if checkpoint.finished:
        console.print(f"{folder} is finished: {len(checkpoint.history)} epochs", highlight=False)
        return checkpoint.history
    with scope(strategy):  # and no further: the first worker saves alone, and makes variables for that
        trained = compile_for(model, recipe, steps, loss=loss)
    epoch, step = checkpoint.restore(trained)
    if epoch or step:
        console.print(f"continuing after {checkpoint.where} of {recipe.epochs} in {folder}", highlight=False)
    shown = reporter(progress, console, title, recipe.epochs, steps, recipe.batch_size, epoch, step)
    averages = EvaluateAverages()
    # An epoch that goes on in the middle is a `fit` of its own, as it has fewer steps.
    parts = [(epoch, epoch + 1, step)] if step else []
    parts += [(epoch + bool(step), recipe.epochs, 0)]
    try:
        with (
            locked_run(folder) if leads else contextlib.nullcontext(),
            stop,
            watched(data.train, folder),
            _lost_workers(strategy, stop, checkpoint),
        ):
            for first, last, skipped in parts:
                if first == last or checkpoint.is_enough:
                    continue
                trained.fit(
                    distributed(
                        strategy,
                        functools.partial(
                            training_batches, data.train, model, recipe, first, last, replicas > 1, skipped
                        ),
                    ),
                    steps_per_epoch=steps - skipped,
                    initial_epoch=first,
                    epochs=last,
                    validation_data=evaluation_batches(data.choosing, model, even=replicas > 1),
                    callbacks=[shown, averages, checkpoint, *callbacks],
                    shuffle=False,  # the pipeline did it
                    verbose=0,
                )
            checkpoint.finish()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped at once; {folder} has what was saved before: the same command continues.", stop.code
        ) from None
    finally:
        averages.put_back()
        shown.close()
    return checkpoint.history


@contextlib.contextmanager
def _lost_workers(strategy, stop, checkpoint):
    """Say what it means when another worker goes away."""
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        if stop.asked:
            raise Interrupted("stopped with the other workers.", stop.code) from None
        raise InputError(
            f"another worker went away ({error.message.splitlines()[0][:80]}): {checkpoint.folder} has what "
            "was saved before. Start all workers again, with the same command, to go on."
        ) from None


def loss_for(model, label_smoothing=0.0):
    """The loss of logits that a model's `activation` stands for, on `pipeline.targets`."""
    options = {"from_logits": True, "label_smoothing": label_smoothing}
    if model.activation == "softmax":
        return keras.losses.CategoricalCrossentropy(**options)
    if model.activation == "sigmoid":
        return keras.losses.BinaryCrossentropy(**options)
    raise InputError(
        "this model answers with plain numbers (activation=None), and the data has classes: compile and fit "
        "it with a loss of your own, or set model.activation = 'softmax'."
    )


def scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def compile_for(
    model: keras.Model, recipe: Any, steps: int, schedule: Any = None, loss: TrainingLoss | None = None
) -> TrainingModel:
    """`model` with the recipe's loss, optimizer and schedule, or with another schedule, ready for `fit`."""
    total = recipe.epochs * steps
    warmup = min(int(recipe.warmup_epochs * steps), total - 1)
    schedule = schedule or warmup_cosine(recipe.learning_rate, total, warmup)
    options = {
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": 1.0,
        "use_ema": recipe.ema > 0,
        "ema_momentum": recipe.ema,
    }
    if recipe.layer_decay == 1.0:
        optimizer = SummedAdamW(schedule, **options)
    else:
        optimizer = LayerwiseAdamW(
            schedule, scales=learning_rate_scales(model, recipe.layer_decay), **options
        )
    # As in the recipes of ViT and DeiT: the size of a bias or a position is no sign of overfitting.
    spared = [variable for variable in model.trainable_variables if not is_decayed(variable)]
    optimizer.exclude_from_weight_decay(var_list=spared)
    training = TrainingModel(model, loss, recipe.accumulate)
    if isinstance(model, MaskedViT):
        training.compile(optimizer)  # it has its own loss
    else:
        accuracy = CountedAccuracy(name="accuracy")
        training.compile(optimizer, loss_for(model, recipe.label_smoothing), [accuracy])
    optimizer.build(model.trainable_variables)
    return training
