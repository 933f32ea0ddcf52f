"""Training: it learns, it is repeatable, and no interruption changes where it ends."""

import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open

from keras_vit import ViT
from keras_vit.data.image_data import Split
from keras_vit.errors import InputError, Interrupted
from keras_vit.training import ImageData, recipe, train
from keras_vit.training.callbacks import RunCheckpoint
from keras_vit.training.runs import locked_run

QUICK = {"epochs": 4, "batch_size": 12, "dropout": 0.1, "warmup_epochs": 1}


def quick(**options):
    return recipe("thumbnails", **{**QUICK, **options})


def data(fingerprint="abc", count=48):
    """Bright and dark pictures: class 1 has a bright upper half."""
    random = np.random.default_rng(0)
    images = random.integers(0, 100, (count, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32) % 2
    images[labels == 1, :4] += 150
    parts = [Split(images[s], labels[s], []) for s in (slice(0, count - 16), slice(count - 16, count))]
    return ImageData(*parts, ["dark", "bright"], "somewhere", fingerprint, [])


def silent():
    return Console(file=io.StringIO())


def weights(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train(data(), folder, quick(), silent())
    return folder


def test_it_learns_and_leaves_what_is_promised(unbroken):
    assert sorted(os.listdir(unbroken)) == [
        "config.json",
        "curves.png",
        "history.json",
        "labels.txt",
        "model.keras",
    ]
    history = json.loads((unbroken / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["val_accuracy"] > 0.9
    assert (unbroken / "labels.txt").read_text() == "dark\nbright\n"
    config = json.loads((unbroken / "config.json").read_text())
    assert recipe("thumbnails", **config["recipe"]) == quick()
    model = keras.models.load_model(unbroken / "model.keras")
    images = data().test.images
    correct = np.asarray(model((images / 255.0 - 0.5) / 0.5)).argmax(1) == data().test.labels
    assert correct.mean() == pytest.approx(history[-1]["val_accuracy"])


def test_the_same_seed_gives_the_same_weights(unbroken, tmp_path):
    train(data(), tmp_path / "run", quick(), silent())
    for a, b in zip(weights(unbroken), weights(tmp_path / "run"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class StopIn(keras.callbacks.Callback):
    """Sends this process a signal in a step, (epoch, batch)."""

    def __init__(self, at, number):
        super().__init__()
        self.at, self.number = at, number

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def ctrl_c_counts():
    """A shell that starts the tests in the background may have told them to ignore Ctrl-C."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("ctrl_c_counts")
@pytest.mark.parametrize(
    ("number", "code", "at", "saved"),
    [
        (signal.SIGINT, 130, (0, 0), "step 1 of 3 in epoch 1"),
        (signal.SIGTERM, 0, (2, 2), "epoch 3"),  # the last one: the epoch is brought to its end
    ],
)
def test_an_interrupted_run_ends_where_an_unbroken_one_ends(
    unbroken, tmp_path, monkeypatch, number, code, at, saved
):
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, StopIn(at, number)], **k),
    )
    with pytest.raises(Interrupted, match=f"stopped; {saved} is saved in .*same command continues") as stop:
        train(data(), tmp_path / "run", quick(), silent())
    assert stop.value.code == code
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (tmp_path / "run" / "model.keras").exists() == (at[0] > 0)
    monkeypatch.undo()
    said = io.StringIO()
    history = train(data(), tmp_path / "run", quick(), Console(file=said, width=300))
    assert f"continuing after {saved} of 4" in said.getvalue()
    assert 0.5 < history[0]["accuracy"] < 1
    # Each step drew the same numbers, and the metrics of the epoch count all of its steps.
    assert history == json.loads((unbroken / "history.json").read_text())
    for a, b in zip(weights(unbroken), weights(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_states_within_an_epoch(tmp_path, monkeypatch):
    """Saved by the monotonic clock; written whole or not at all; without the NaN that a step made."""
    steps = []

    def noted(self, tensors, step):
        steps.append((len(self.history), step))

    monkeypatch.setattr(RunCheckpoint, "_write_state", noted)
    jumps = itertools.cycle([2e9, 1e9])  # a clock that is set to another year all the time
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    train(data(), tmp_path / "a", quick(epochs=2), silent(), save_seconds=0)
    assert steps == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    steps.clear()
    train(data(), tmp_path / "b", quick(epochs=2), silent(), save_seconds=3600)
    assert steps == [(1, 0), (2, 0)]
    monkeypatch.undo()

    class Break(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                head = self.model.model.head.kernel
                head.assign(head * np.nan)

    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, Break()], **k),
    )
    with pytest.raises(
        InputError, match="not finite in epoch 1: the state after step 1 of 3 in epoch 1 is kept"
    ):
        train(data(), tmp_path / "c", quick(), silent(), save_seconds=0)
    with safe_open(tmp_path / "c" / "state.safetensors", "numpy") as file:
        assert file.metadata()["step"] == "1"
        assert all(np.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


HOLDER = """
import sys, time
from keras_vit.training.runs import locked_run
with locked_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_on_one_folder_refuse_each_other(tmp_path):
    run = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"another process is training into .*run: wait"):
            train(data(), run, quick(), silent())
        assert not (run / "model.keras").exists()
    finally:
        other.kill()
        other.wait()
    with locked_run(run):  # killed, it holds nothing
        pass
    assert not (run / ".lock").exists()


@pytest.mark.slow
def test_kills_at_any_moment_do_not_change_the_end(tmp_path):
    """The real command, stopped in three ways, each at a step of its own, ends as the one that was not."""
    words = [sys.executable, "-m", "keras_vit.cli", "train", "digits", "--epochs", "3", "--save-minutes", "0"]
    whole = subprocess.Popen([*words, "--out", tmp_path / "whole"], stderr=subprocess.DEVNULL)
    run = tmp_path / "run"

    def done():
        """(epochs, steps) in the state."""
        try:
            with safe_open(run / "state.safetensors", "numpy") as file:
                return len(json.loads(file.metadata()["history"])), int(file.metadata()["step"])
        except OSError:
            return 0, 0

    for number, code, least in (
        (signal.SIGKILL, -signal.SIGKILL, (0, 3)),
        (signal.SIGTERM, 0, (1, 2)),
        (signal.SIGKILL, -signal.SIGKILL, (2, 5)),
    ):
        process = subprocess.Popen([*words, "--out", run], stderr=subprocess.PIPE, text=True)
        deadline = time.time() + 200
        while time.time() < deadline and done() < least:
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate()[1]
        assert process.returncode == code, said
        assert least <= done() < (3, 0), "it was to be stopped in the middle"
        if number == signal.SIGTERM:
            assert said.splitlines()[-1].startswith("stopped; "), said
    again = subprocess.run([*words, "--out", run], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert whole.wait(200) == 0
    assert json.loads((run / "history.json").read_text()) == json.loads(
        (tmp_path / "whole" / "history.json").read_text()
    )
    for a, b in zip(weights(run), weights(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_left_as_it_is(unbroken):
    before = (unbroken / "model.keras").read_bytes()
    assert len(train(data(), unbroken, quick(), silent())) == 4
    assert (unbroken / "model.keras").read_bytes() == before


def test_early_stop_keeps_the_best_epoch(tmp_path):
    chosen = quick(epochs=30, early_stop=2, learning_rate=1e-12)  # accuracy stands still
    history = train(data(), tmp_path / "run", chosen, silent())
    accuracies = [row["val_accuracy"] for row in history]
    best = accuracies.index(max(accuracies))
    assert len(history) == best + 3 < 30
    again = train(data(), tmp_path / "run", chosen, silent())
    assert again == history


def test_val_chooses_and_test_is_reported(tmp_path):
    """The labels of val are the wrong ones: the better a model is on test, the worse it is on val."""
    whole = data()
    val = dataclasses.replace(whole.test, labels=1 - whole.test.labels)
    history = train(dataclasses.replace(whole, val=val), tmp_path / "run", quick(early_stop=4), silent())
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    answers = np.asarray(model(model.prepare(whole.test.images))).argmax(-1)
    right = float(np.mean(answers == whole.test.labels))
    best = max(row["val_accuracy"] for row in history)
    assert right == pytest.approx(1 - best), "the kept epoch is the best one on val"
    assert history[-1]["val_accuracy"] < 0.2 and right > 0.8
    written = json.loads((tmp_path / "run" / "test.json").read_text())
    assert written == {"accuracy": pytest.approx(right), "examples": 16}


def test_another_dataset_or_recipe_is_refused(unbroken, tmp_path):
    with pytest.raises(InputError, match=r"belongs to another dataset .*use another --out"):
        train(data(fingerprint="xyz"), unbroken, quick(), silent())
    with pytest.raises(InputError, match=r"was trained with epochs 4, now it is 5: .*another --out"):
        train(data(), unbroken, quick(epochs=5), silent())
    (tmp_path / "holiday.jpg").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty and no run \(it holds 'holiday.jpg'\)"):
        train(data(), tmp_path, quick(), silent())
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_a_damaged_state_is_named(tmp_path):
    train(data(), tmp_path / "run", quick(), silent())
    (tmp_path / "run" / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"state.safetensors cannot be read .*delete it to start again"):
        train(data(), tmp_path / "run", quick(), silent())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path, monkeypatch):
    bad = dataclasses.replace(quick(), learning_rate=1e30)
    with pytest.raises(InputError, match=r"loss is not finite in epoch [12]: .*lower --learning-rate"):
        train(data(), tmp_path / "run", bad, silent())


def test_a_start_that_came_frozen_is_thawed(tmp_path):
    start = ViT("Nano/2", image_size=8, num_classes=2, pooling="mean", dropout=0.1)
    start.trainable = False
    before = keras.ops.convert_to_numpy(start.blocks[0].mlp.expand.kernel)
    train(data(), tmp_path / "run", quick(epochs=1), silent(), start=start)
    after = keras.models.load_model(tmp_path / "run" / "model.keras").blocks[0].mlp.expand.kernel
    assert not np.array_equal(keras.ops.convert_to_numpy(after), before)
