"""`run`: a scenario from its data to a table of what each set of modalities gets right, and what it costs.

    keras-vit demo --scenario digits-audio --out runs/digits-audio

OUT/run          the trained model, a RUN like any other: quantize, export, evaluate, predict, explain
    NAME-alone   that of a model which never saw the other modalities
    start.keras  the model before it, where parts of it had a training of their own
    scores.json
"""

import itertools
import json
import time
from pathlib import Path

import numpy as np

from keras_vit.files import atomic_write, write_json
from keras_vit.scenarios import scenario
from keras_vit.training.progress import ProgressBar
from keras_vit.training.recipes import multimodal_recipe
from keras_vit.training.trainer import train


def run(name, out, console):
    """Train the scenario called `name` and score it on its held-out examples.

    Args:
        out: a folder; a run that was interrupted goes on.
        console: a rich console for progress.

    Returns:
        {"scenario", "parameters", "seconds" of this training, "milliseconds" an example, "scores": see
        `scores`, "more": further figures of this scenario}; what `pretraining.run` gives for that scenario.
    """
    ours, out = scenario(name), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if hasattr(ours, "run"):
        rows = ours.run(out, console)
        write_json(out / "scores.json", rows)
        return rows
    data, begun = ours.make(), time.perf_counter()
    model = _trained(ours, data, out / "run", console)
    seconds, rows = time.perf_counter() - begun, scores(model, data.test, ours)
    for alone in getattr(ours, "ALONE", ()):
        part = data.only([alone])
        single = _trained(ours, part, out / f"{alone}-alone", console)
        given = answers(single, part.test.inputs, len(part.test))
        rows[f"{alone}, a model of its own"] = _by_group(given, part.test)
    found = {
        "scenario": name,
        "parameters": model.count_params(),
        "seconds": seconds,
        "milliseconds": milliseconds(model, model.prepare(data.test.take(np.arange(1)))),
        "scores": rows,
        "more": ours.more(model, data, rows, out) if hasattr(ours, "more") else {},
    }
    write_json(out / "scores.json", found)
    return json.loads((out / "scores.json").read_text())


def _trained(ours, data, folder, console):
    """The model of a scenario, trained in a RUN folder on the modalities of `data`."""
    import keras

    variant, training, start = dict(ours.MODEL), dict(ours.TRAINING), None
    if len(data.modalities) == 1:
        variant.pop("visual_weight", None)  # nothing to predict
        training.pop("freeze", None)
    recipe = multimodal_recipe(data, variant=variant, **training)
    if hasattr(ours, "teach") and len(data.modalities) > 1:
        keras.utils.set_random_seed(recipe.seed)
        start = _taught(ours, recipe.build(len(data.labels)), folder.with_name("start.keras"), console)
    train(data, folder, recipe, console, start=start)
    return keras.models.load_model(folder / "model.keras", compile=False)


def _taught(ours, model, path, console):
    """The model before its training, parts of which have had their own; kept in a file."""
    import keras

    if not path.exists():
        progress = ProgressBar(console, "teach", 1, ours.SCHOOL["steps"], 0)
        try:
            ours.teach(model, callbacks=[progress])
        finally:
            progress.close()
        with atomic_write(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path, compile=False)


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
        batch = {name: np.asarray(x[rows]) for name, x in inputs.items()}
        found.append(np.argmax(model(model.prepare(batch), training=False), axis=-1))
    return np.concatenate(found)


def _by_group(given, examples):
    right = given == examples.labels
    groups = {"all": np.ones(len(right), "bool"), **examples.groups}
    return {name: float(right[mask].mean()) for name, mask in groups.items() if mask.any()}


def milliseconds(model, batch):
    """The median time of a batch in Keras."""
    times = []
    for _ in range(12):
        start = time.perf_counter()
        model.predict_on_batch(batch)
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
    return out


def notes(found):
    """The lines below that table."""
    if isinstance(found, list):
        return []
    return [
        *(f"{name}: {share:.1%}" for name, share in found["more"].items()),
        f"{found['parameters']:,} parameters, {found['milliseconds']:.1f} ms an example in Keras, "
        f"{found['seconds']:.0f} s of training",
    ]
