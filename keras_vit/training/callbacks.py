"""What happens while `fit` runs: a progress bar, and a state file that survives any interruption."""

import json
import math

import keras
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from keras_vit.errors import InputError
from keras_vit.files import atomic_write, write_json

METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")  # of each epoch, in history.json


class ProgressBar(keras.callbacks.Callback):
    """One bar over all epochs with the time left, and one line for each epoch that ended."""

    def __init__(self, console, title, epochs, steps, first_epoch):
        super().__init__()
        self.console, self.epochs, self.steps, self.first_epoch = console, epochs, steps, first_epoch
        self.epoch = first_epoch
        self.bar = Progress(
            TextColumn(title),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def on_train_begin(self, logs=None):
        self.task = self.bar.add_task(
            "", total=self.epochs * self.steps, completed=self.first_epoch * self.steps, note=""
        )
        self.bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        note = f"epoch {self.epoch + 1}/{self.epochs} loss {logs.get('loss', math.nan):.4f}"
        if "accuracy" in logs:
            note += f" accuracy {logs['accuracy']:.4f}"
        self.bar.update(self.task, completed=self.epoch * self.steps + batch + 1, note=note)

    def on_epoch_end(self, epoch, logs=None):
        values = " ".join(f"{name} {logs[name]:.4f}" for name in METRICS if name in (logs or {}))
        self.console.print(
            f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {values}", highlight=False
        )

    def close(self):
        self.bar.stop()


class Keeper(keras.callbacks.Callback):
    """After each epoch, saves what a person wants (the model) and what a resumed run needs (the state).

    The state is one file, `state.safetensors`, replaced in one step: every variable of the model
    and the optimizer, and as metadata the epochs done and their history. A kill at any moment
    leaves either the old or the new one.

    Args:
        folder: where `model.keras`, `history.json` and `state.safetensors` go.
        keep: "last" or "best" (highest held-out accuracy) epoch in `model.keras`.
        patience: stop after that many epochs without a better held-out accuracy; 0 never stops.
        writes: whether this process writes them; of several workers one does.
    """

    def __init__(self, folder, keep, patience=0, writes=True):
        super().__init__()
        self.writes = writes
        self.folder, self.keep, self.patience = folder, keep, patience
        self.history = []
        self._copy = None

    @property
    def state_path(self):
        return self.folder / "state.safetensors"

    @property
    def best_epoch(self):
        """Index of the epoch in `model.keras`."""
        if self.keep == "last":
            return len(self.history) - 1
        return max(range(len(self.history)), key=lambda i: (self.history[i]["val_accuracy"], i))

    @property
    def waited(self):
        """Epochs since the best one."""
        if not self.history:
            return 0
        accuracies = [epoch["val_accuracy"] for epoch in self.history]
        return len(accuracies) - 1 - accuracies.index(max(accuracies))

    def is_enough(self, epochs):
        """Whether `epochs` are done, or patience is at its end."""
        return len(self.history) >= epochs or bool(self.patience and self.waited >= self.patience)

    def restore_history(self):
        path = self.folder / "history.json"
        if path.exists():
            try:
                self.history = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(
                    f"{path} is not valid JSON ({error}): delete it to train again, or use another --out."
                ) from None

    def finished(self, epochs):
        """Whether there is nothing left to do: only a run that is not finished has a state."""
        done = (self.folder / "model.keras").exists() and not self.state_path.exists()
        return done and self.is_enough(epochs)

    def finish(self):
        if not self.writes:
            return
        write_json(self.folder / "history.json", self.history)
        self.state_path.unlink(missing_ok=True)

    def restore(self, model):
        """Load the state into a compiled `model`; return the number of epochs done."""
        self.history = []
        if not self.state_path.exists():
            return 0
        variables = _variables(model)
        try:
            with safe_open(self.state_path, framework="numpy") as file:
                self.history = json.loads(file.metadata()["history"])
                if set(file.keys()) != set(variables):
                    raise InputError(f"{self.state_path} belongs to another model: use another --out.")
                for name, variable in variables.items():
                    variable.assign(file.get_tensor(name))
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.state_path} cannot be read ({error}): delete it to start again, or use another --out."
            ) from None
        return len(self.history)

    def on_epoch_end(self, epoch, logs=None):
        row = {name: float(logs[name]) for name in METRICS if name in logs}
        if not all(math.isfinite(value) for value in row.values()):
            raise InputError(
                f"the loss is not finite in epoch {epoch + 1}: the state of epoch {epoch} is kept. Try a "
                "lower --learning-rate, a longer --warmup-epochs or --precision float32."
            )
        self.history.append({"epoch": epoch + 1, **row})
        if self.writes:
            self._write()
        if self.patience and self.waited >= self.patience:
            self.model.stop_training = True

    def _write(self):
        if self.best_epoch == len(self.history) - 1:
            self._save_model()
        with atomic_write(self.state_path) as temporary:
            tensors = {
                name: keras.ops.convert_to_numpy(value) for name, value in _variables(self.model).items()
            }
            # As bytes first: a full disk is then an OSError, and no error of the library's own.
            temporary.write_bytes(save(tensors, metadata={"history": json.dumps(self.history)}))
        write_json(self.folder / "history.json", self.history)

    def _save_model(self):
        # A copy that was never compiled: the optimizer's state would triple the file.
        if self._copy is None:
            self._copy = type(self.model).from_config(self.model.get_config())
        self._copy.set_weights(self.model.get_weights())
        with atomic_write(self.folder / "model.keras") as temporary:
            self._copy.save(temporary)


def _variables(model):
    """Every variable that training changes, by its place in the model and the optimizer."""
    both = [*model.variables, *model.optimizer.variables]
    # Not by path: Keras numbers its seed generators through a process, however many models it made.
    return {f"{i:05d}.{variable.name}": variable for i, variable in enumerate(both)}
