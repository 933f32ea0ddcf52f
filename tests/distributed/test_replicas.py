"""Training on several replicas: real worker processes, and two devices of one process, against one device."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors import safe_open

from keras_vit.distributed import launching, strategies
from keras_vit.errors import InputError

# What each process does: train, and leave its own weights. 70 examples: the last batch has 6 of 32. The rate
# is small since Adam makes a whole step of a gradient near 0, whatever rounding left of it.
PROGRAM = """
import os
import sys
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from keras_vit.errors import Interrupted
from keras_vit.training import recipe, strategy
from keras_vit.data.image_data import ImageData, Split
from keras_vit.training.trainer import built, fit, scope

devices, out = strategy("auto"), Path(sys.argv[1])
rank = devices.cluster_resolver.task_id if devices else "one"
random = np.random.default_rng(0)
images, labels = random.integers(0, 256, (70, 8, 8, 3), "uint8"), random.integers(0, 3, 70, "int32")
train, test = (Split(images[:n], labels[:n], list(map(str, range(n)))) for n in (70, 21))
data = ImageData(train, test, ["a", "b", "c"], "none", "0" * 16, [])
chosen = recipe("thumbnails", epochs=2, batch_size=32, dropout=0.0, learning_rate=1e-3, warmup_epochs=0)
keras.utils.set_random_seed(0)
with scope(devices):
    model = built(data, chosen, None)
before = model.get_weights()


class Stop(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if sys.argv[2:] and [rank, batch] == [int(sys.argv[2]), 1]:
            os.kill(os.getpid(), int(sys.argv[3]))


options = {"strategy": devices, "save_seconds": 0, "callbacks": [Stop()]}
try:
    history = fit(model, data, out / "run", chosen, Console(quiet=True), "train", "last", **options)
except Interrupted as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.code)
moved = [np.abs(a - b).max() for a, b in zip(before, model.get_weights())]
np.savez(out / f"{rank}.npz", *model.get_weights(), moved=moved, **history[-1])
"""
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


def worker(folder, environment, *stop):
    """One process; `stop` is (which worker, which signal) in the second step of an epoch."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), *map(str, stop)],
        env={**ENVIRONMENT, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def two_workers(folder, *stop):
    return [worker(folder, environment, *stop) for environment in launching.environments(2)]


def ended(process, code=0):
    error = process.communicate(timeout=400)[1]
    assert process.returncode == code, error[-2000:]
    return error


def state(folder):
    """(epochs, steps) in the state of a run."""
    with safe_open(folder / "run" / "state.safetensors", "numpy") as file:
        return len(json.loads(file.metadata()["history"])), int(file.metadata()["step"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What two workers and one process end with."""
    folder = tmp_path_factory.mktemp("trained")
    for process in (*two_workers(folder / "two"), worker(folder / "one", {})):
        ended(process)
    assert (folder / "two" / "run" / "model.keras").exists()
    return [np.load(folder / name) for name in ("two/0.npz", "two/1.npz", "one/one.npz")]


def test_two_workers_train_to_the_weights_of_one_process(trained):
    first, second, one = trained
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], one[name], atol=1e-5, err_msg=name)
    assert len(first["moved"]) > 30 and np.median(first["moved"]) > 1e-3, "it learned something"


def test_workers_that_are_killed_or_pre_empted_end_where_unbroken_ones_do(trained, tmp_path):
    first, second = two_workers(tmp_path, 1, int(signal.SIGKILL))
    ended(second, -signal.SIGKILL)
    # The first cannot pass step 2 without the second. It may still be saving step 1.
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()  # as `launch` does; by itself it waits for the other one for a while
    first.communicate()
    assert state(tmp_path) == (0, 1)

    first, second = two_workers(tmp_path, 0, int(signal.SIGTERM))
    said = ended(first)
    assert "stopped; epoch 1 is saved" in said  # it began after step 1: its second one ends the epoch
    second.kill()
    second.communicate()
    assert state(tmp_path) == (1, 0)

    for process in two_workers(tmp_path):
        ended(process)
    for name in trained[0].files:
        if name != "loss" and name != "accuracy" and name != "moved":  # of the steps of the last process
            for rank in "01":
                np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npz")[name], trained[0][name])


DEVICES = """
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_vit.training import strategy
from keras_vit.training.optimization.optimizer import SummedAdamW

next_seed = keras.random.SeedGenerator.next
two = strategy("mirrored")
assert two.num_replicas_in_sync == 2
with two.scope():
    layer = keras.layers.Dropout(0.5, seed=1)


@tf.function
def draw():
    return two.run(lambda: layer(tf.ones((1, 64)), training=True))


for _ in range(2):
    a, b = (np.asarray(x) for x in two.experimental_local_results(draw()))
    assert (a != b).mean() > 0.2, "each replica leaves out others"

random = np.random.default_rng(0)
x, y = random.normal(size=(32, 4)).astype("float32"), random.normal(size=(32, 1)).astype("float32")
x[16:] *= 30  # the replicas' gradients differ, and so does what clipping makes of each


def fitted(scope, optimizer):
    with scope:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(optimizer(1e-2, global_clipnorm=0.5, epsilon=1.0), "mse")
    model.fit(x, y, batch_size=32, epochs=20, shuffle=False, verbose=0)
    return np.concatenate([w.ravel() for w in model.get_weights()])


import contextlib

one = fitted(contextlib.nullcontext(), keras.optimizers.AdamW)
np.testing.assert_allclose(fitted(contextlib.nullcontext(), SummedAdamW), one, atol=1e-7)
np.testing.assert_allclose(fitted(two.scope(), SummedAdamW), one, atol=1e-6)
assert np.abs(fitted(two.scope(), keras.optimizers.AdamW) - one).max() > 1e-4, "Keras' own is as good by now"
assert keras.random.SeedGenerator.next is next_seed, "Keras is as it was"
print("all is well")
"""


def test_two_devices_draw_apart_and_clip_together():
    found = subprocess.run(
        [sys.executable, "-c", DEVICES], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "all is well", found.stderr[-2000:]


PLAIN = """
import contextlib
import json

import keras
import numpy as np

from keras_vit.training import strategy

devices = strategy()
next_seed = keras.random.SeedGenerator.next
random = np.random.default_rng(0)
x, y = random.normal(size=(32, 4)).astype("float32"), random.integers(0, 3, 32).astype("int32")
keras.utils.set_random_seed(0)
with devices.scope() if devices else contextlib.nullcontext():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
history = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history
assert keras.random.SeedGenerator.next is next_seed, "Keras is as it was"
print(json.dumps([history["loss"], history["accuracy"], [w.tolist() for w in model.get_weights()]]))
"""


def test_any_keras_model_fits_under_two_workers():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN],
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in (*launching.environments(2), {})
    ]
    said = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    *two, one = (json.loads(output.splitlines()[-1]) for output, _ in said)
    assert one[0][0] > one[0][-1] + 0.02, "it learns"
    for worker_s in two:
        for found, expected in zip(worker_s, one, strict=True):
            np.testing.assert_allclose(
                np.hstack([*map(np.ravel, found)]), np.hstack([*map(np.ravel, expected)]), atol=1e-5
            )


GOOD = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"TF_CONFIG is not valid JSON .*expected \{\"cluster\""),
        ("[1]", "no list of workers' addresses, but None"),
        (json.dumps({**GOOD, "cluster": {"worker": ["a"]}}), r"addresses, but \['a'\]"),
        (json.dumps({**GOOD, "cluster": {"worker": ["a:1"], "ps": ["b:2"]}}), "another type, ps"),
        (json.dumps({**GOOD, "task": {"type": "wroker", "index": 0}}), "has the task .*wroker"),
        (json.dumps({**GOOD, "task": {"type": "worker", "index": 2}}), "has the worker 2 of 2"),
    ],
)
def test_a_tf_config_with_a_typo(monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match=message):
        strategies.strategy("auto")


def test_one_device_needs_no_strategy(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    assert strategies.strategy("auto") is None is strategies.strategy("none")
    assert strategies.is_chief(None)
    with pytest.raises(InputError, match=r"no workers to train with.*keras-vit launch --workers 2"):
        strategies.strategy("multiworker")
    with pytest.raises(InputError, match=r"unknown strategy 'miror'.*mirrored"):
        strategies.strategy("miror")


def test_a_batch_that_cannot_be_divided():
    class Three:
        num_replicas_in_sync = 3

    strategies.check_batch_size(33, Three())
    strategies.check_batch_size(7, None)
    with pytest.raises(InputError, match=r"batch of 32 .* 3 replicas: use --batch-size 30 or 33"):
        strategies.check_batch_size(32, Three())


def test_who_does_not_come_is_named_in_time():
    here, there = (f"127.0.0.1:{port}" for port in launching.free_ports(2))
    start = time.monotonic()
    with pytest.raises(InputError, match=f"after 1 s worker 0 cannot reach {there}: start all"):
        strategies.wait_for_workers([here, there], 0, seconds=1)
    assert time.monotonic() - start < 30
    with socket.socket() as taken:
        taken.bind(("", int(here.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(InputError, match=rf"worker 0 cannot listen at {here}.*another process"):
            strategies.wait_for_workers([here, there], 0, seconds=1)


def test_workers_that_come_late_meet():
    places = [f"127.0.0.1:{port}" for port in launching.free_ports(2)]
    met = []
    with socket.socket() as later:  # what TensorFlow does once the second has met the first

        def second():
            time.sleep(1)
            strategies.wait_for_workers(places, 1, seconds=30)
            later.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            later.bind(("", int(places[1].rpartition(":")[2])))
            later.listen()
            met.append(1)

        thread = threading.Thread(target=second)
        thread.start()
        strategies.wait_for_workers(places, 0, seconds=30)
        with socket.socket() as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("", int(places[0].rpartition(":")[2])))
            first.listen()
            thread.join()
    assert met == [1]


def test_launch_ends_when_one_worker_fails(tmp_path, capfd):
    assert launching.launch(["train", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")], 2) == 2
    assert "nothing" in capfd.readouterr().err
    with pytest.raises(InputError, match="only train can have several workers, not export"):
        launching.launch(["export", "x"], 2)
