"""Does a small student learn more from a teacher? Held-out top-1 on the handwritten digits, per cent.

    python tests/benchmarks/distillation.py [--pictures 200] [--seeds 3] [--out FOLDER]

The teacher is `keras-vit train digits` (1,438 pictures). The student has 1/27 of its weights and sees 200 of
the pictures, other ones for each seed: alone; and with the teacher's answers, hard or soft, with one head
for both or with a distillation token. All by the same recipe, for the same time.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_vit.training import load_data, recipe, train
from keras_vit.training.data import Split
from keras_vit.training.distillation import load_teacher

SMALL = {"patch_size": [2, 2], "width": 16, "depth": 2, "heads": 2, "mlp_width": 32}
STUDENT = {
    "variant": SMALL,
    "pooling": "cls",
    "epochs": 60,
    "batch_size": 32,
    "dropout": 0.0,
    "weight_decay": 0.05,
}
TAUGHT = {
    "alone": {},
    "hard": {"distill": "hard"},
    "hard, token": {"distill": "hard", "distillation_token": True},
    "soft": {"distill": "soft"},
    "soft, token": {"distill": "soft", "distillation_token": True},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200, help="that the student sees")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here; what is there is not trained again")
    options = parser.parse_args()
    console, silent = Console(), Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        out, data = options.out or Path(folder), load_data("digits")
        history = train(data, out / "teacher", recipe("thumbnails", (8, 8)), silent, progress="quiet")
        teacher = load_teacher(out / "teacher", data.labels)
        large, small = teacher.model.count_params(), _student(0).build(10).count_params()
        top1 = 100 * history[-1]["val_accuracy"]
        console.print(f"teacher: {large:,} weights, {top1:.1f}%; student: {small:,} weights")
        table = Table("student", "mean", "from", "to")
        for name, how in TAUGHT.items():
            scores = []
            for seed in range(options.seeds):
                part = _part(data, options.pictures, seed)
                run = out / name.replace(", ", "_") / f"{options.pictures}_{seed}"
                taught = {"teacher": teacher if how else None, "progress": "quiet"}
                history = train(part, run, _student(seed, **how), silent, **taught)
                scores.append(100 * history[-1]["val_accuracy"])
                console.print(f"{name}, seed {seed}: {scores[-1]:.1f}")
            table.add_row(name, *(f"{f(scores):.1f}" for f in (np.mean, min, max)))
        console.print(table)


def _student(seed, **how):
    return recipe("thumbnails", (8, 8), **STUDENT, **how, seed=seed)


def _part(data, count, seed):
    """The data with so many training pictures, of all classes alike."""
    random, kept = np.random.default_rng(seed), []
    for label in range(10):
        members = np.flatnonzero(data.train.labels == label)
        kept.extend(random.choice(members, count // 10, replace=False))
    kept = np.sort(kept)
    split = Split(data.train.images[kept], data.train.labels[kept], [data.train.names[i] for i in kept])
    return dataclasses.replace(data, train=split, fingerprint=f"{data.fingerprint}-{count}-{seed}")


if __name__ == "__main__":
    main()
