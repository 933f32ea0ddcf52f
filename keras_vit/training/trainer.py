"""`train`: from a data set to a RUN folder, and the loop that quantization-aware training shares.

A RUN holds model.keras, labels.txt, config.json, history.json, curves.png, and while it is not
finished state.safetensors. The same call on the same folder continues where it stopped.
"""

import contextlib
import signal
import threading
from pathlib import Path

import keras
from rich.console import Console

import keras_vit
from keras_vit.errors import Interrupted
from keras_vit.models import MultimodalViT, ViT, freeze, is_decayed, learning_rate_scales
from keras_vit.training.callbacks import Keeper, ProgressBar
from keras_vit.training.curves import draw_curves
from keras_vit.training.metrics import CountedAccuracy
from keras_vit.training.optimizer import LayerwiseAdamW, SummedAdamW, warmup_cosine
from keras_vit.training.pipeline import evaluation_batches, steps_per_epoch, training_batches
from keras_vit.training.runs import held, open_run
from keras_vit.training.strategies import check_batch_size, is_chief


def train(data, out, recipe, console=None, start=None, strategy=None):
    """Train a `ViT` or a `MultimodalViT` on `data` into the folder `out`, or continue there.

    Args:
        data: an `ImageData`; or a `MultimodalData`.
        out: the RUN folder; made when missing.
        recipe: a `Recipe`; or for `MultimodalData` a `MultimodalRecipe`.
        console: a rich console for progress.
        start: a model to fine-tune instead of fresh weights. A `ViT`: its parts that do not fit, such as
            the head for other classes, are fresh or resized (see `ViT.rebuilt`), and `recipe.variant` must
            be its config. Or a `MultimodalViT` such as the recipe builds.
        strategy: what `training.strategy` gave, for several devices or workers; None for one. The weights
            become those of one device but for rounding, and for what is random in the model.

    Returns:
        list of the epochs' metrics.

    Raises:
        InputError: `out` belongs to another data set or recipe, is no run, or another process trains there.
        Interrupted: Ctrl-C or SIGTERM; everything up to the last full epoch is saved.
    """
    out, console = Path(out), console or Console(stderr=True)
    config = {
        "format": 1,
        "keras_vit": keras_vit.__version__,
        "labels": list(data.labels),
        "data": {"source": str(data.source), "fingerprint": data.fingerprint},
        "recipe": recipe.to_dict(),
    }
    check_batch_size(recipe.batch_size, strategy)
    if is_chief(strategy):
        open_run(out, config)
    else:
        console = Console(quiet=True)
    keras.utils.set_random_seed(recipe.seed)
    with _scope(strategy):
        model = _built(data, recipe, start)
    keep = "best" if recipe.early_stop else "last"
    history = fit(model, data, out, recipe, console, title="train", keep=keep, strategy=strategy)
    if is_chief(strategy):
        draw_curves(history, out / "curves.png")
    return history


def _built(data, recipe, start):
    if start is None or isinstance(start, MultimodalViT):
        model = recipe.build(len(data.labels))
        if start is not None:
            model.set_weights(start.get_weights())
    else:
        model = start.reset_classifier(None).rebuilt(
            config=recipe.model_config(),
            image_size=recipe.image_size,
            classes=len(data.labels),
            dtype=recipe.precision,
        )
    if isinstance(model, ViT):
        freeze(model, recipe.freeze)  # 0 thaws a start that came frozen
    else:
        for part in (*model.modalities.values(), *model.blocks):
            part.trainable = part.name not in recipe.freeze
    return model


def fit(model, data, folder, recipe, console, title, keep, strategy=None):
    """Run the recipe's epochs on `model` with progress, continuing from `folder`'s state if there is one.

    Returns:
        list of the epochs' metrics.
    """
    replicas = strategy.num_replicas_in_sync if strategy else 1
    keeper = Keeper(folder, keep=keep, patience=recipe.early_stop, writes=is_chief(strategy))
    keeper.restore_history()
    if keeper.finished(recipe.epochs):
        console.print(f"{folder} is finished: {len(keeper.history)} epochs", highlight=False)
        return keeper.history
    steps = steps_per_epoch(data.train, recipe.batch_size)
    with _scope(strategy):  # and no further: the first worker saves alone, and makes variables for that
        compile_for(model, recipe, steps)
    first = keeper.restore(model)
    if first:
        console.print(f"continuing after epoch {first} of {recipe.epochs} in {folder}", highlight=False)
    progress = ProgressBar(console, title, recipe.epochs, steps, first)
    try:
        with held(folder) if keeper.writes else contextlib.nullcontext(), _stoppable():
            if not keeper.is_enough(recipe.epochs):
                model.fit(
                    training_batches(data.train, model, recipe, first, recipe.epochs, even=replicas > 1),
                    steps_per_epoch=steps,
                    initial_epoch=first,
                    epochs=recipe.epochs,
                    validation_data=evaluation_batches(data.test, model, even=replicas > 1),
                    callbacks=[progress, keeper],
                    shuffle=False,  # the pipeline did it
                    verbose=0,
                )
            keeper.finish()
    except KeyboardInterrupt:
        done = len(keeper.history)
        raise Interrupted(
            f"stopped in epoch {done + 1} of {recipe.epochs}; {done} epochs are saved in {folder}: "
            "the same command continues."
        ) from None
    finally:
        progress.close()
    return keeper.history


def _scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def compile_for(model, recipe, steps):
    """Compile `model` with the recipe's loss, optimizer and schedule."""
    total = recipe.epochs * steps
    warmup = min(int(recipe.warmup_epochs * steps), total - 1)
    schedule = warmup_cosine(recipe.learning_rate, total, warmup)
    options = {"weight_decay": recipe.weight_decay, "global_clipnorm": 1.0}
    if recipe.layer_decay == 1.0:
        optimizer = SummedAdamW(schedule, **options)
    else:
        optimizer = LayerwiseAdamW(
            schedule, scales=learning_rate_scales(model, recipe.layer_decay), **options
        )
    # As in the recipes of ViT and DeiT: the size of a bias or a position is no sign of overfitting.
    spared = [variable for variable in model.trainable_variables if not is_decayed(variable)]
    optimizer.exclude_from_weight_decay(var_list=spared)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        weighted_metrics=[CountedAccuracy(name="accuracy")],
    )
    optimizer.build(model.trainable_variables)


class _stoppable:
    """While active, SIGTERM does what Ctrl-C does: stop between two steps."""

    def __enter__(self):
        self.old = None
        if threading.current_thread() is threading.main_thread():
            self.old = signal.signal(signal.SIGTERM, self._stop)

    def __exit__(self, *exception):
        if self.old is not None:
            signal.signal(signal.SIGTERM, self.old)

    @staticmethod
    def _stop(number, frame):
        raise KeyboardInterrupt
