"""Do two replicas cost anything? Images per second of 2 workers against one process on the same 2 cores.

    python tests/benchmarks/replicas.py            # the recipe `compact`: 2 minutes
    python tests/benchmarks/replicas.py --variant Ti/16 --image-size 224 --batch-size 32

The same steps of the same global batch through `fit`, as under `keras-vit launch`: each worker has its share
of the cores, and gradients are summed over 127.0.0.1. The two take turns; the ratio is that of the medians.
Anchor: 0.95x.

Expect on two cores of an AMD EPYC: 0.91x to 1.14x with `compact` (nine runs, two machines: one process takes
58 or 69 ms a step, as the machine pleases, two take 62), 0.99x to 1.05x with Ti/16 at 224 pixels. How much
work there is for each gradient decides: with Ti/16 at 64 pixels, batch 64, it is 0.72x: its gradients, 23 MB,
take 38 ms of a step of 260, and each worker updates all weights by itself.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ANCHOR = 0.95


def work(options):
    """A process: fits some steps and prints the seconds of each."""
    import keras
    import numpy as np

    from keras_vit.data.image_data import ImageData, Split
    from keras_vit.distributed.strategies import is_chief
    from keras_vit.training import recipe, strategy
    from keras_vit.training.trainer import fit, scope

    devices = strategy("auto")
    random = np.random.default_rng(0)
    changes = {name: value for name, value in shape(options).items() if value}
    chosen = recipe(options.recipe, epochs=1, augment="none", **changes)
    count = chosen.batch_size * options.steps
    images = random.integers(0, 256, (count, *chosen.image_size, 3), "uint8")
    labels = random.integers(0, 10, count, "int32")
    split, few = Split(images, labels, []), Split(images[:2], labels[:2], [])
    with scope(devices):
        model = chosen.build(10)
    times = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            times.append(time.perf_counter())

    from rich.console import Console

    data = ImageData(split, few, list("0123456789"), "none", "0" * 16, [])
    with tempfile.TemporaryDirectory() as folder:
        console = Console(quiet=True)
        fit(model, data, Path(folder), chosen, console, "", "last", devices, "quiet", callbacks=[Clock()])
    if is_chief(devices):
        print(json.dumps([b - a for a, b in itertools.pairwise(times[2:])]))


def shape(options):
    """What the options change in the recipe."""
    size = options.image_size and (options.image_size,) * 2
    return {"variant": options.variant, "image_size": size, "batch_size": options.batch_size}


def seconds(options, workers):
    """Seconds of each step of so many processes that work together."""
    from keras_vit.distributed.launching import environments

    command = [sys.executable, __file__, "--work", *sys.argv[1:]]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    places = environments(workers) if workers > 1 else [{}]
    processes = [
        subprocess.Popen(
            command, env={**quiet, **place}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for place in places
    ]
    try:
        return json.loads(processes[0].communicate()[0].splitlines()[-1])
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="compact")
    parser.add_argument("--variant", help="another model, e.g. Ti/16")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    found = {1: [], 2: []}
    for _ in range(options.rounds):
        for workers, times in found.items():
            times += seconds(options, workers)
    steps = {workers: statistics.median(times) for workers, times in found.items()}
    ratio = steps[1] / steps[2]
    changed = ", ".join(f"{name} {value}" for name, value in shape(options).items() if value)
    print(f"recipe {options.recipe}{', ' + changed if changed else ''}, {os.cpu_count()} cores")
    for workers, step in steps.items():
        print(f"{workers} process{'es' if workers > 1 else ''}: {1000 * step:7.1f} ms a step")
    met = "met" if ratio >= ANCHOR else "MISSED"
    print(f"2 workers against one process: {ratio:.2f}x   anchor {ANCHOR}x   {met}")


if __name__ == "__main__":
    main()
