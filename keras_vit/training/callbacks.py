"""`RunCheckpoint`: what a run leaves on disk while it trains: an interruption loses and changes nothing."""

import json
import math
import time

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from keras_vit.errors import InputError, Interrupted
from keras_vit.files import atomic_write, write_json
from keras_vit.formats import parsed, problem_with, read_document
from keras_vit.training.optimization.averaging import averaged_weights
from keras_vit.training.progress import METRICS
from keras_vit.training.run_schema import HISTORY, SCORED_HISTORY

SECONDS = 600  # between two states within an epoch
STEP_METRIC = "metric."  # the names of the sums behind the metrics of an epoch that is not finished


class RunCheckpoint(keras.callbacks.Callback):
    """Saves what a person wants (the model) after each epoch, and what a resumed run needs (the state).

    The state is one file, `state.safetensors`, replaced in one step: every variable of the model
    and the optimizer, and as metadata the epochs done, their history, and the steps done in the epoch
    that runs. It is written after each epoch, every `seconds` within one, and when a stop is asked for. A
    kill at any moment leaves either the old or the new one.

    Args:
        folder: where `model.keras`, `history.json` and `state.safetensors` go.
        keep: "last" or "best" (highest held-out accuracy) epoch in `model.keras`.
        epochs, steps: how many there are, and how many steps each has.
        patience: stop after that many epochs without a better held-out accuracy; 0 never stops.
        seconds: between two states within an epoch.
        stop: a `stopping.Stop`, which tells whether somebody asked for one; None for never.
        writes: whether this process writes them; of several workers one does.
        alone: whether it trains alone. Then a run that goes on within an epoch also reports the metrics of
            the whole epoch, and not of the rest of it.
    """

    def __init__(
        self, folder, keep, epochs, steps, patience=0, seconds=SECONDS, stop=None, writes=True, alone=True
    ):
        super().__init__()
        self.folder, self.keep, self.epochs, self.steps = folder, keep, epochs, steps
        self.patience, self.seconds, self.stop = patience, seconds, stop
        self.writes, self.alone = writes, alone
        self.history, self.step = [], 0
        self._copy, self._written, self._first, self._metrics = None, time.monotonic(), 0, {}

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

    @property
    def where(self):
        """How far the run is, in words."""
        done = len(self.history)
        return f"step {self.step} of {self.steps} in epoch {done + 1}" if self.step else f"epoch {done}"

    @property
    def is_enough(self):
        """Whether all epochs are done, or patience is at its end."""
        return len(self.history) >= self.epochs or bool(self.patience and self.waited >= self.patience)

    def restore_history(self):
        path = self.folder / "history.json"
        if path.exists():
            self.history = read_document(path, self._schema, "delete it to train again, or use another --out")

    @property
    def _schema(self):
        return SCORED_HISTORY if self.keep == "best" or self.patience else HISTORY

    @property
    def finished(self):
        """Whether there is nothing left to do: only a run that is not finished has a state."""
        return (self.folder / "model.keras").exists() and not self.state_path.exists() and self.is_enough

    def finish(self):
        if not self.writes:
            return
        write_json(self.folder / "history.json", self.history)
        self.state_path.unlink(missing_ok=True)

    def restore(self, model):
        """Load the state into a compiled `TrainingModel`; return (epochs done, steps done in the next)."""
        self.history = []
        if not self.state_path.exists():
            return 0, 0
        variables = _variables(model)
        try:
            with safe_open(self.state_path, framework="numpy") as file:
                metadata = file.metadata()
                self.history, self.step = parsed(metadata["history"]), int(metadata.get("step", 0))
                problem = problem_with(self.history, self._schema)
                if problem or not 0 <= self.step < self.steps or len(self.history) > self.epochs:
                    raise ValueError(f"its history {problem or 'is of other epochs'}")
                names = set(file.keys())
                saved = {_place(name): name for name in names if not name.startswith(STEP_METRIC)}
                if set(saved) != {_place(name) for name in variables}:
                    raise InputError(f"{self.state_path} belongs to another model: use another --out.")
                for name, variable in variables.items():
                    variable.assign(file.get_tensor(saved[_place(name)]))
                self._metrics = {name: file.get_tensor(name) for name in names - set(saved.values())}
        except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.state_path} cannot be read ({error}): delete it to start again, or use another --out."
            ) from None
        self._first = self.step
        return len(self.history), self.step

    def on_train_batch_end(self, batch, logs=None):
        step = self._first + batch + 1
        if self.alone and self._metrics:  # Keras makes them in the first step: they are sums, so add
            for name, variable in _metric_variables(self.model).items():
                variable.assign_add(self._metrics[name])
        self._metrics = {}
        self._check_finite((logs or {}).get("loss", 0.0))
        asked = self.stop is not None and self.stop.asked
        if step == self.steps:  # what is due, on_epoch_end does
            return
        if self.writes and (asked or time.monotonic() - self._written >= self.seconds):
            self._write_state(self._tensors(_metric_variables(self.model) if self.alone else {}), step)
        if asked:
            raise self._stopped()

    def on_epoch_end(self, epoch, logs=None):
        row = {name: float(logs[name]) for name in METRICS if name in logs}
        for value in row.values():
            self._check_finite(value)
        tensors = self._tensors({}) if self.writes else None
        self.history.append({"epoch": epoch + 1, **row})
        self.step = self._first = 0
        if self.writes:
            if self.best_epoch == len(self.history) - 1:
                self._save_model()
            self._write_state(tensors, 0)
            write_json(self.folder / "history.json", self.history)
        if self.is_enough:
            self.model.stop_training = True
        elif self.stop is not None and self.stop.asked:
            raise self._stopped()

    def _stopped(self):
        return Interrupted(
            f"stopped; {self.where} is saved in {self.folder}: the same command continues.",
            code=self.stop.code,
        )

    def _check_finite(self, value):
        if not math.isfinite(value):
            raise InputError(
                f"the loss is not finite in epoch {len(self.history) + 1}: the state after {self.where} is "
                "kept. Try a lower --learning-rate, a longer --warmup-epochs or --precision float32, with "
                "another --out."
            )

    def _tensors(self, more):
        """What goes into the state, after a look: the loss would tell of a NaN one step later."""
        variables = _variables(self.model) | more
        tensors = {name: keras.ops.convert_to_numpy(value) for name, value in variables.items()}
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            self._check_finite(math.nan)
        return tensors

    def _write_state(self, tensors, step):
        with atomic_write(self.state_path) as temporary:
            # As bytes first: a full disk is then an OSError, and no error of the library's own.
            metadata = {"history": json.dumps(self.history), "step": str(step)}
            temporary.write_bytes(save(tensors, metadata=metadata))
        self.step, self._written = step, time.monotonic()

    def _save_model(self):
        # A copy that was never compiled: the optimizer's state would triple the file.
        model = self.model.model
        if self._copy is None:
            self._copy = type(model).from_config(model.get_config())
        self._copy.set_weights(averaged_weights(model))
        with atomic_write(self.folder / "model.keras") as temporary:
            self._copy.save(temporary)


def _variables(model):
    """Every variable that training changes, by its place in the model and the optimizer."""
    both = [*model.variables, *model.optimizer.variables]
    # Not by path: Keras numbers its seed generators through a process, however many models it made.
    return {f"{i:05d}.{variable.name}": variable for i, variable in enumerate(both)}


def _place(name):
    """What of a name in `_variables` does not depend on how many models this process has made.

    An optimizer's variables are called after the paths of the model's, "vit_2_head_kernel_velocity", and
    Keras numbers models. The last word tells momentum from velocity.
    """
    number, _, rest = name.partition(".")
    return number, rest.rpartition("_")[2]


def _metric_variables(model):
    return {f"{STEP_METRIC}{i:03d}": variable for i, variable in enumerate(model.metrics_variables)}
