"""What is shown while a model trains: a bar for people, JSON lines for batch systems, or nothing."""

import json
import math
import sys
import time

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_vit.errors import one_of
from keras_vit.files import finite

PROGRESS = ("bar", "json", "quiet")
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")  # of each epoch, in history.json
SECONDS = 10  # between two JSON lines within an epoch


def reporter(kind, console, title, epochs, steps, batch_size, first_epoch=0, first_step=0):
    """The callback for `kind` of `PROGRESS`.

    Args:
        console: a rich console; for "bar".
        title: what is being done, in a word.
        epochs, steps: how many there are, and how many steps each has.
        batch_size: examples of a step.
        first_epoch, first_step: where the run goes on.
    """
    one_of("progress", kind, PROGRESS)
    if kind == "bar":
        return ProgressBar(console, title, epochs, steps, first_epoch, first_step, batch_size)
    if kind == "json":
        return JsonLines(epochs, steps, batch_size, first_step)
    return Clock(epochs, steps, batch_size, first_step)


class Clock(keras.callbacks.Callback):
    """Knows the step within the epoch, and how many examples a second went through since training began.

    By the monotonic clock: the other one may be set while a run goes on.
    """

    def __init__(self, epochs, steps, batch_size=0, first_step=0):
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.skipped, self.epoch, self.step = first_step, 0, first_step
        self._trained, self._seconds, self._since = 0, 0.0, None

    @property
    def rate(self):
        """Examples a second, without the first step (it compiles) and without evaluation; nan at first."""
        return self._trained * self.batch_size / self._seconds if self._seconds else math.nan

    def close(self):
        """Take away what is on the screen."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.step, self._since = epoch, self.skipped, None

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._since is not None:
            self._trained, self._seconds = self._trained + 1, self._seconds + now - self._since
        self.step, self._since = self.skipped + batch + 1, now

    def on_epoch_end(self, epoch, logs=None):
        self.skipped = 0  # only the epoch that goes on began in the middle


class ProgressBar(Clock):
    """One bar over all epochs with the time left, and one line for each epoch that ended."""

    def __init__(self, console, title, epochs, steps, first_epoch, first_step=0, batch_size=0):
        super().__init__(epochs, steps, batch_size, first_step)
        self.console, self.epoch = console, first_epoch
        self.task = None
        self.bar = Progress(
            TextColumn(title, markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def on_train_begin(self, logs=None):
        if self.task is None:
            done = self.epoch * self.steps + self.skipped
            self.task = self.bar.add_task("", total=self.epochs * self.steps, completed=done, note="")
            self.bar.start()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        logs = logs or {}
        note = f"epoch {self.epoch + 1}/{self.epochs} loss {logs.get('loss', math.nan):.4f}"
        if "accuracy" in logs:
            note += f" accuracy {logs['accuracy']:.4f}"
        if self.rate > 0:
            note += f" {self.rate:,.0f}/s"
        self.bar.update(self.task, completed=self.epoch * self.steps + self.step, note=note)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        values = " ".join(f"{name} {logs[name]:.4f}" for name in METRICS if name in (logs or {}))
        self.console.print(
            f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {values}", highlight=False
        )

    def close(self):
        self.bar.stop()


class JsonLines(Clock):
    """One JSON object a line, on standard output: at the end of each epoch, and now and then within it."""

    def __init__(self, epochs, steps, batch_size, first_step=0, seconds=SECONDS):
        super().__init__(epochs, steps, batch_size, first_step)
        self.seconds, self._said = seconds, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if time.monotonic() - self._said >= self.seconds:
            self._say("step", logs, step=self.step, steps=self.steps)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._say("epoch", logs)

    def _say(self, event, logs, **more):
        row = {"event": event, "epoch": self.epoch + 1, "epochs": self.epochs, **more}
        row.update({name: round(float(logs[name]), 6) for name in METRICS if name in (logs or {})})
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["examples_per_second"] = round(self.rate, 1) if self.rate > 0 else None
        sys.stdout.write(json.dumps(finite(row), allow_nan=False) + "\n")
        sys.stdout.flush()
        self._said = time.monotonic()
