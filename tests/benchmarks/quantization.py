"""What does each profile cost in accuracy, before and after quantization-aware training?

    keras-vit train cifar10.zip --out runs/cifar ...               # or `python quantization.py --train` below
    python tests/benchmarks/quantization.py runs/cifar cifar10.zip

Exports every profile of a finished RUN twice, from post-training quantization and after at most 3 epochs
of quantization-aware training, and runs all files on the whole held-out part in the real LiteRT. About 40
minutes on two cores for the model of `--train`: a compact stem, 5 blocks of width 96, 0.45 M parameters,
18 epochs of CIFAR-10 (40 minutes more).

Anchors: at least 75% for the float model; points lost: int8 0.1, int8_static 0.3, int4 0.7,
int8_full 1.0; agreement of a file with its Keras model 99.9% for int8 and int4, 99.5% for int8_static;
mean absolute difference of probabilities 1e-3.

Found for the recipe `compact` (mobile_demo/cifar10/run), float32 at 80.86% of 8,000 pictures: points lost,
post-training / trained (below 0: gained) int8 0.03 / -0.26, int8_mixed 0.06 / -0.24, int4 0.89 / -0.39,
int4_block 0.40 / -0.07, int8_static -0.04 / -0.30, int8_full 0.25 / 0.04; agreement 100.00, 99.95, 100.00,
99.99, 99.90, 99.80%; mean difference 1e-5, 1.4e-4, 1e-5, 1e-5, 2.4e-4, 1.2e-3. For the model of `--train`,
76.0%: int8 -0.04 / -0.21, int4 0.29 / -0.15, int8_static -0.14 / -0.25.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FLOAT = 0.75
# Points.
LOST = {"int8": 0.1, "int4": 0.7, "int4_block": 0.7, "int8_mixed": 0.3, "int8_static": 0.3, "int8_full": 1.0}
AGREEMENT = {"int8": 0.999, "int4": 0.999, "int4_block": 0.999, "int8_mixed": 0.995, "int8_static": 0.995}
DIFFERENCE = 1e-3
EPOCHS = {  # at most 3
    "int8": 1,
    "int4": 2,
    "int4_block": 1,
    "int8_mixed": 1,
    "int8_static": 1,
    "int8_full": 1,
}


def train(run, data):
    """The model of the docstring."""
    from keras_vit.training import recipe
    from keras_vit.training import train as train_run

    variant = {"patch_size": 4, "width": 96, "depth": 5, "num_heads": 3, "mlp_width": 192, "stem": "compact"}
    chosen = recipe(
        "small",
        image_size=(32, 32),
        variant=variant,
        epochs=18,
        learning_rate=1.5e-3,
        warmup_epochs=1,
        weight_decay=0.05,
        precision="mixed_bfloat16",
    )
    train_run(data, run, chosen)


def measure(run, data, folder, profiles, aware):
    """{artifact: row} of profiles of the RUN, the fine-tuned models where `aware` has them."""
    from keras_vit.export import export, verify
    from keras_vit.export.quantization.finetune import load_model

    export(
        load_model(run), folder, ["float32", *profiles], calibration=data, labels=data.labels, trained=aware
    )
    report = verify(folder, data, seconds=0.2)
    return {row["name"]: row for row in report["artifacts"]}


def show(before, after):
    top1 = before["float32.tflite"]["top1"]
    print(f"float32 top-1 {top1:.2%}, at least {FLOAT:.0%}: {top1 >= FLOAT}")
    head = (
        "profile",
        "epochs",
        "lost, post-training",
        "lost, trained",
        "at most",
        "",
        "agreement",
        "",
        "mean diff",
    )
    print("{:<13}{:>7}{:>21}{:>15}{:>9}{:>7}{:>11}{:>7}{:>11}".format(*head))
    for profile, epochs in EPOCHS.items():
        if f"{profile}.tflite" not in after:
            continue
        row = after[f"{profile}.tflite"]
        lost = [100 * (top1 - rows[f"{profile}.tflite"]["top1"]) for rows in (before, after)]
        asked = profile in AGREEMENT
        agreed = row["agreement"] >= AGREEMENT[profile] if asked else ""
        near = row["mean_abs_diff"] <= DIFFERENCE if asked else ""
        print(
            f"{profile:<13}{epochs:>7}{lost[0]:>21.2f}{lost[1]:>15.2f}{LOST[profile]:>9}"
            f"{lost[1] <= LOST[profile]!s:>7}{row['agreement']:>11.2%}{agreed!s:>7}"
            f"{row['mean_abs_diff']:>11.1e} {near}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", help="a folder, .zip or built-in name")
    parser.add_argument("--train", action="store_true", help="train the run first (or go on with it)")
    parser.add_argument(
        "--profiles", default=",".join(EPOCHS), help="measure these, keep what is known of others"
    )
    options = parser.parse_args()
    profiles = options.profiles.split(",")
    from keras_vit.export.quantization.finetune import finetune, load_trained
    from keras_vit.training import load_data

    size = 32
    if not options.train:
        size = json.loads((options.run / "config.json").read_text())["recipe"]["image_size"]
    data = load_data(options.data, size)
    if options.train:
        train(options.run, data)
    results = options.run / "quantization.json"
    found = json.loads(results.read_text()) if results.exists() else {"before": {}, "after": {}}
    for profile in profiles:
        finetune(options.run, profile, data, epochs=EPOCHS[profile])
    aware = {name: model for name, model in load_trained(options.run).items() if name in profiles}
    for key, models in (("before", {}), ("after", aware)):
        found[key] |= measure(options.run, data, options.run / key, profiles, models)
        results.write_text(json.dumps(found, indent=2))
    print(f"{len(data.test)} pictures")
    show(found["before"], found["after"])


if __name__ == "__main__":
    sys.exit(main())
