"""`run`: a scenario from its data to a table of what each set of modalities gets right, and what it costs.

    keras-vit demo --scenario digits-audio --out runs/digits-audio

OUT/run          the trained model, a RUN like any other: quantize, export, evaluate, predict, explain
    NAME-alone   that of a model which never saw the other modalities
    start.keras  the model before it, where parts of it were pretrained
    scores.json
"""

import itertools
import json
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from rich.console import Console

from keras_vit.data.examples import Examples
from keras_vit.files import atomic_write, write_json
from keras_vit.models import MultimodalViT
from keras_vit.scenarios import scenario
from keras_vit.training.progress import ProgressBar
from keras_vit.training.recipes import multimodal_recipe
from keras_vit.training.trainer import train

if TYPE_CHECKING:
    from rich.table import Table


def run(name: str, out: str | Path, console: Console) -> Any:
    """Train the scenario called `name` and score it on its held-out examples.

    Args:
        out: a folder; a run that was interrupted goes on.
        console: a rich console for progress.

    Returns:
        {"scenario", "parameters", "seconds" of this training, "milliseconds" an example, "scores": see
        `scores`, "more": further figures of this scenario}; what `pretraining.run` gives for that scenario.
    """
    world, out = scenario(name), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if hasattr(world, "run"):
        rows = world.run(out, console)
        write_json(out / "scores.json", rows)
        return rows
    data, begun = world.make(), time.perf_counter()
    model = _train(world, data, out / "run", console)
    seconds, rows = time.perf_counter() - begun, scores(model, data.test, world)
    for alone in getattr(world, "ALONE", ()):
        part = data.only([alone])
        single = _train(world, part, out / f"{alone}-alone", console)
        predicted = answers(single, part.test.inputs, len(part.test))
        rows[f"{alone}, a model of its own"] = _by_group(predicted, part.test)
    result = {
        "scenario": name,
        "parameters": model.count_params(),
        "seconds": seconds,
        "milliseconds": milliseconds(model, model.prepare(data.test.take(np.arange(1)))),
        "scores": rows,
        "more": world.more(model, data, rows, out) if hasattr(world, "more") else {},
    }
    write_json(out / "scores.json", result)
    return json.loads((out / "scores.json").read_text())


def _train(world, data, folder, console):
    """The model of a scenario, trained in a RUN folder on the modalities of `data`."""
    variant, training, start = dict(world.MODEL), dict(world.TRAINING), None
    if len(data.modalities) == 1:
        variant.pop("visual_weight", None)  # nothing to predict
        training.pop("freeze", None)
    recipe = multimodal_recipe(data, variant=variant, **training)
    if hasattr(world, "pretrain") and len(data.modalities) > 1:
        keras.utils.set_random_seed(recipe.seed)
        start = _pretrained(world, recipe.build(len(data.labels)), folder.with_name("start.keras"), console)
    train(data, folder, recipe, console, start=start)
    return keras.models.load_model(folder / "model.keras", compile=False)


def _pretrained(world, model, path, console):
    """The model with pretrained parts, kept in a file."""
    if not path.exists():
        progress = ProgressBar(console, "pretrain", 1, world.PRETRAINING["steps"], 0)
        try:
            world.pretrain(model, callbacks=[progress])
        finally:
            progress.close()
        with atomic_write(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path, compile=False)


def scores(model: MultimodalViT, examples: Examples, world: ModuleType) -> dict[str, dict[str, float]]:
    """{"image + text": {"all": share right, group: ...}, "image": ...} of each set of modalities.

    A scenario adds rows of its own by a function `controls(examples)` that gives {name: other examples}.
    """
    names = list(model.modalities)
    sets = [some for size in range(len(names), 0, -1) for some in itertools.combinations(names, size)]
    table = {}
    for some in sets[:8]:
        inputs = {name: examples.inputs[name] for name in some}
        table[" + ".join(some)] = _by_group(answers(model, inputs, len(examples)), examples)
    controls = world.controls(examples) if hasattr(world, "controls") else {}
    for name, others in controls.items():
        table[name] = _by_group(answers(model, others.inputs, len(others)), others)
    return table


def answers(model: MultimodalViT, inputs: dict[str, Any], count: int, batch_size: int = 256) -> np.ndarray:
    """The most probable class of each example: int [N]."""
    predicted = []
    for start in range(0, count, batch_size):
        rows = np.arange(start, min(start + batch_size, count))
        batch = {name: np.asarray(x[rows]) for name, x in inputs.items()}
        predicted.append(np.argmax(model(model.prepare(batch), training=False), axis=-1))
    return np.concatenate(predicted)


def _by_group(predicted, examples):
    right = predicted == examples.labels
    groups = {"all": np.ones(len(right), "bool"), **examples.groups}
    return {name: float(right[mask].mean()) for name, mask in groups.items() if mask.any()}


def milliseconds(model: keras.Model, batch: Any) -> float:
    """The median time of a batch in Keras."""
    times = []
    for _ in range(12):
        start = time.perf_counter()
        model.predict_on_batch(batch)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times[2:]))


def table(result: dict | list) -> "Table":
    """What `run` gave, as a `rich.table.Table`."""
    from rich.table import Table

    if isinstance(result, list):
        out = Table(*result[0])
        for row in result:
            out.add_row(
                *(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values())
            )
        return out
    groups = list(next(iter(result["scores"].values())))
    out = Table("given", *groups)
    for name, row in result["scores"].items():
        out.add_row(name, *(f"{row[group]:.1%}" if group in row else "" for group in groups))
    return out


def notes(result: dict | list) -> list[str]:
    """The lines below that table."""
    if isinstance(result, list):
        return []
    return [
        *(f"{name}: {share:.1%}" for name, share in result["more"].items()),
        f"{result['parameters']:,} parameters, {result['milliseconds']:.1f} ms an example in Keras, "
        f"{result['seconds']:.0f} s of training",
    ]
