"""`run`: a scenario from its data to a table of what each set of modalities gets right, and what it costs.

    keras-vit demo --scenario digits-audio --out runs/digits-audio

OUT/run        the trained model, a RUN like any other: quantize, export, evaluate, predict, explain
    scores.json
"""

import itertools
import json
import time
from pathlib import Path

import numpy as np

from keras_vit.config import PRESENT
from keras_vit.files import write_json
from keras_vit.scenarios import scenario
from keras_vit.training.recipes import multimodal_recipe
from keras_vit.training.trainer import train


def run(name, out, console):
    """Train the scenario called `name` and score it on its held-out examples.

    Args:
        out: a folder; a run that was interrupted goes on.
        console: a rich console for progress.

    Returns:
        {"scenario", "parameters", "seconds" of training, "milliseconds" an example, "scores": see `scores`};
        what `pretraining.run` gives for that scenario.
    """
    import keras

    ours, out = scenario(name), Path(out)
    if hasattr(ours, "run"):
        rows = ours.run(out, console)
        write_json(out / "scores.json", rows)
        return rows
    data = ours.make()
    recipe = multimodal_recipe(data, variant=ours.MODEL, **ours.TRAINING)
    start = time.perf_counter()
    train(data, out / "run", recipe, console)
    seconds = time.perf_counter() - start
    model = keras.models.load_model(out / "run" / "model.keras", compile=False)
    found = {
        "scenario": name,
        "parameters": model.count_params(),
        "seconds": seconds,
        "milliseconds": _milliseconds(model, data.test),
        "scores": scores(model, data.test, ours),
    }
    write_json(out / "scores.json", found)
    return json.loads((out / "scores.json").read_text())


def scores(model, examples, ours):
    """{"image + text": {"all": share right, group: ...}, "image": ...} of each set of modalities.

    A scenario adds rows of its own by a function `controls(examples)` that gives {name: other examples}.
    """
    names = list(model.modalities)
    sets = [some for size in range(len(names), 0, -1) for some in itertools.combinations(names, size)]
    table = {}
    for some in sets[:8]:
        inputs = {name: examples.inputs[name] for name in some}
        table[" + ".join(some)] = _by_group(answers(model, inputs, len(examples)), examples)
    controls = ours.controls(examples) if hasattr(ours, "controls") else {}
    for name, others in controls.items():
        table[name] = _by_group(answers(model, others.inputs, len(others)), others)
    return table


def answers(model, inputs, count, batch_size=256):
    """The most probable class of each example: int [N]."""
    found = []
    for start in range(0, count, batch_size):
        rows = np.arange(start, min(start + batch_size, count))
        batch = {name: np.asarray(x[rows]) for name, x in inputs.items() if name != PRESENT}
        found.append(np.argmax(model(model.prepare(batch), training=False), axis=-1))
    return np.concatenate(found)


def _by_group(given, examples):
    right = given == examples.labels
    groups = {"all": np.ones(len(right), "bool"), **examples.groups}
    return {name: float(right[mask].mean()) for name, mask in groups.items() if mask.any()}


def _milliseconds(model, examples):
    """The median time of one example in Keras."""
    batch = model.prepare(examples.take(np.arange(1)))
    times = []
    for _ in range(12):
        start = time.perf_counter()
        np.asarray(model(batch, training=False))
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times[2:]))


def table(found):
    """What `run` gave, as a `rich.table.Table`."""
    from rich.table import Table

    if isinstance(found, list):
        out = Table(*found[0])
        for row in found:
            out.add_row(
                *(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values())
            )
        return out
    groups = list(next(iter(found["scores"].values())))
    out = Table("given", *groups)
    for name, row in found["scores"].items():
        out.add_row(name, *(f"{row[group]:.1%}" if group in row else "" for group in groups))
    out.caption = (
        f"{found['parameters']:,} parameters, {found['milliseconds']:.1f} ms an example in Keras, "
        f"{found['seconds']:.0f} s of training"
    )
    return out
