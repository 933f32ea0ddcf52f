"""Does a small student learn more from a teacher? Held-out top-1, per cent.

    python tests/benchmarks/distillation.py [--pictures 200] [--seeds 3] [--out FOLDER]
    python tests/benchmarks/distillation.py --data cifar10.zip --teacher mobile_demo/cifar10/run --seeds 2

The student learns alone; and with the teacher's answers, hard or soft, with one head for both or with a
distillation token. All by the same recipe, for as many epochs.

- digits: the teacher is `keras-vit train digits` (1,438 pictures). The student has 1/27 of its weights and
  sees 200 of the pictures, other ones for each seed.
- --data: the teacher is a RUN, and the student a Nano/4 that sees all pictures, 5 times. Expect on CIFAR-10,
  with the demo model (80.9%) as the teacher: 57.2 and 57.2% alone, 59.4% with soft answers (one seed); the
  other ways were not run. 6 minutes a student on two cores.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_vit.data.image_data import Split
from keras_vit.training import load_data, recipe, train
from keras_vit.training.methods.distillation import load_teacher

SMALL = {"patch_size": [2, 2], "width": 16, "depth": 2, "num_heads": 2, "mlp_width": 32}
STUDENT = {
    "variant": SMALL,
    "pooling": "cls",
    "epochs": 60,
    "batch_size": 32,
    "dropout": 0.0,
    "weight_decay": 0.05,
}
LARGER = {"variant": "Nano/4", "pooling": "cls", "epochs": 5, "learning_rate": 2e-3, "warmup_epochs": 1}
TAUGHT = {
    "alone": {},
    "hard": {"distill": "hard"},
    "hard, token": {"distill": "hard", "distillation_token": True},
    "soft": {"distill": "soft"},
    "soft, token": {"distill": "soft", "distillation_token": True},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200, help="that the student sees, of the digits")
    parser.add_argument("--data", help="a folder or .zip of pictures instead of the digits")
    parser.add_argument("--teacher", help="a RUN trained on them")
    parser.add_argument("--ways", default=";".join(TAUGHT), help="some of: %(default)s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here; what is there is not trained again")
    options = parser.parse_args()
    console, silent = Console(), Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        out, chosen = options.out or Path(folder), ("thumbnails", (8, 8), STUDENT)
        if options.data is None:
            data = load_data("digits")
            train(data, out / "teacher", recipe("thumbnails", (8, 8)), silent, progress="quiet")
        else:
            data, chosen = load_data(options.data, 32), ("small", (32, 32), LARGER)
        teacher = load_teacher(options.teacher or out / "teacher", data.labels)

        def student(seed, how):
            name, image_size, fields = chosen
            return recipe(name, image_size, **fields, **how, seed=seed)

        large, small = teacher.model.count_params(), student(0, {}).build(len(data.labels)).count_params()
        console.print(f"teacher: {large:,} weights; student: {small:,} weights")
        table = Table("student", "mean", "from", "to")
        for name in options.ways.split(";"):
            how, scores = TAUGHT[name], []
            for seed in range(options.seeds):
                part = data if options.data else _part(data, options.pictures, seed)
                run = out / name.replace(", ", "_") / f"{len(part.train)}_{seed}"
                taught = {"teacher": teacher if how else None, "progress": "quiet"}
                history = train(part, run, student(seed, how), silent, **taught)
                scores.append(100 * history[-1]["val_accuracy"])
                console.print(f"{name}, seed {seed}: {scores[-1]:.1f}")
            table.add_row(name, *(f"{f(scores):.1f}" for f in (np.mean, min, max)))
        console.print(table)


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
