"""What limits training, making the batches or the model? And how fast is a set read? Images per second.

    python tests/benchmarks/pipeline.py cifar10.zip --count 8000     # 2 to 4 minutes on 2 cores

First the reading, from files to uint8 arrays in memory: a folder of class folders, a .zip of it, and the
shards that `keras-vit pack` makes of it, as they are and as PNG. All come from the system's cache: what is
compared is the work, not the disk. Then, in turns, the training pipeline with each augmentation policy, and
the train step of the recipe's model on a batch that is there already. On a GPU the slower of the two limits.
On a CPU both share the processor: of each second, 1 / (1 + pipeline / model) goes into the batches.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

AHEAD = 5  # batches, more than a pipeline makes while others are timed

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def subset(source, count, folder):
    """Unpack about `count` pictures of a .zip of class folders, equally many of each class."""
    from keras_vit.data.opening import open_index

    with open_index(source) as index:
        step = max(1, len(index.items) // count)
        for i in range(0, len(index.items), step):
            item = index.items[i]
            path = folder / item.split / index.labels[item.label] / f"{i}{Path(item.name).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(index.read(i))


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))


def reading(base, size, rounds):
    """{kind: images per second}, the best of the rounds; every kind once a round."""
    from keras_vit.data.packing import pack
    from keras_vit.training import load_data

    folder = base / "folder"
    zipped(folder, base / "set.zip")
    pack(folder, base / "packed")
    pack(folder, base / "resized", image_size=size)
    kinds = {
        "folder": folder,
        ".zip": base / "set.zip",
        "TFRecord, as they are": base / "packed",
        "TFRecord, PNG": base / "resized",
    }
    rates = dict.fromkeys(kinds, 0.0)
    for _ in range(rounds):
        for kind, source in kinds.items():
            start = time.perf_counter()
            data = load_data(source, size)
            seconds = time.perf_counter() - start
            rates[kind] = max(rates[kind], (len(data.train) + len(data.test)) / seconds)
    return rates, data


def rate_of(batches, batch_size, seconds, ready=0):
    """Images per second of an iterator that never ends, over about so many seconds, after those `ready`."""
    for _ in range(ready):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(batches)
        count += 1
    return count * batch_size / (time.perf_counter() - start)


def pipelines(data, model, recipe_of, names):
    """{policy: iterator over its batches}; each has given one, which traces it."""
    from keras_vit.data.pipeline import training_batches

    made = {}
    for name in names:
        made[name] = iter(training_batches(data.train, model, recipe_of(name), 0, 10**6))
        next(made[name])
    return made


def steps(data, model, recipe):
    """An iterator that makes a train step each time, on a batch that is there already."""
    from keras_vit.data.pipeline import training_batches
    from keras_vit.training.trainer import compile_for

    training = compile_for(model, recipe, steps=1000)
    training.make_train_function()
    same = iter(training_batches(data.train, model, recipe, 0, 1).take(1).cache().repeat())
    while True:
        training.train_function(same)
        model.trainable_variables[-1].numpy()  # a GPU runs behind: wait for the update
        yield


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder or .zip of class folders")
    parser.add_argument("--count", type=int, default=8000, help="pictures to take")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--variant", default="Lite/4")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="for each pipeline in each round")
    options = parser.parse_args()

    import keras
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from keras_vit.training import recipe
    from keras_vit.training.recipes import AUGMENTATIONS

    started, size = time.time(), (options.image_size,) * 2

    def recipe_of(policy):
        shape = {"image_size": size, "variant": options.variant, "batch_size": options.batch}
        return recipe(**shape, augment=policy)

    base = Path(tempfile.mkdtemp())
    try:
        subset(options.data, options.count, base / "folder")
        rates, data = reading(base, size, options.rounds)
    finally:
        shutil.rmtree(base)
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title=f"Reading {len(data.train) + len(data.test)} pictures at {options.image_size}")
    for column in ("from", "images/s", "of folder"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for kind, rate in rates.items():
        table.add_row(kind, f"{rate:,.0f}", f"{rate / rates['folder']:.2f}x")
    console.print(table)

    keras.utils.set_random_seed(0)
    model = recipe_of("none").build(len(data.labels))
    model_steps = steps(data, model, recipe_of("none"))
    next(model_steps)
    running = pipelines(data, model, recipe_of, AUGMENTATIONS)
    seen = {name: [] for name in ("model", *running)}
    for _ in range(options.rounds):
        seen["model"].append(rate_of(model_steps, options.batch, options.seconds))
        for name, batches in running.items():
            seen[name].append(rate_of(batches, options.batch, options.seconds, AHEAD))
    rates = {name: float(np.median(values)) for name, values in seen.items()}
    table = Table(title=f"Batches of {options.batch}, and the train step of {options.variant}")
    for column in (
        "policy",
        "pipeline images/s",
        "range",
        "model images/s",
        "pipeline / model",
        "what limits",
    ):
        table.add_column(column, justify="left" if column in ("policy", "what limits") else "right")
    for name in running:
        ratio = rates[name] / rates["model"]
        table.add_row(
            name,
            f"{rates[name]:,.0f}",
            f"{min(seen[name]):,.0f} to {max(seen[name]):,.0f}",
            f"{rates['model']:,.0f}",
            f"{ratio:.1f}x",
            "the model" if ratio > 1 else "the pipeline",
        )
    console.print(table)
    low, high = min(seen["model"]), max(seen["model"])
    console.print(f"The model alone: {low:,.0f} to {high:,.0f} images/s over {options.rounds} rounds.")
    print(f"{time.time() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
