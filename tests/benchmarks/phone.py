"""Does the `phone` preset keep the accuracy? Its parts on a small ViT, same budget, same recipe.

    python tests/benchmarks/phone.py cifar10.zip --out runs/phone          # 30 minutes on two cores

The preset's parts (registers up to a multiple of 16 tokens, tokens merged after a third of the blocks) on a
ViT of 6 blocks of width 64 for 32 x 32 pictures, beside the plain one; two seeds each; each trained, taken
through one epoch of quantization-aware training for int8_static, exported, and run on all held-out
pictures in LiteRT. Anchor: at most 0.5 points below the plain one. Their speed on a phone's shape is a row
of export_peers.py. `--kinds plain,relu,merge,registers+merge` compares parts; --float trains only.

Found in int8_static, seeds 0 to 3: plain 55.64, 57.16, 55.70, 56.59%, phone 56.24, 55.56, 56.66, 56.19%: 0.11
points lost in the mean (0.50 with the first two seeds: a seed is worth more than the parts). In float32,
seeds 0 and 1, plain 56.24%: ReLU attention alone loses 1.42 points, so it is no part of the preset any more;
merging after half of the blocks 0.21, these two with registers 0.64.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

LOST = 0.5  # points
SHAPE = {"patch_size": 4, "width": 64, "depth": 6, "num_heads": 2, "mlp_width": 256}
PARTS = {"registers": {"registers": None}, "relu": {"attention": "relu"}, "merge": {"merge": (2, 16)}}


def accuracy(data, folder, variant, seed, epochs, quantized):
    """Top-1 of the float32 model, and if `quantized` of the int8_static file."""
    from keras_vit.export import export, verify
    from keras_vit.export.quantization.finetune import finetune, load_model, load_trained
    from keras_vit.training import recipe, train

    run = folder / "run"
    chosen = recipe(
        "small",
        image_size=(32, 32),
        variant=variant,
        pooling="cls",
        epochs=epochs,
        learning_rate=2e-3,
        warmup_epochs=1,
        seed=seed,
    )
    history = train(data, run, chosen)
    if not quantized:
        return [history[-1]["val_accuracy"]]
    finetune(run, "int8_static", data, epochs=1)
    profiles = ["float32", "int8_static"]
    export(load_model(run), folder / "export", profiles, labels=data.labels, trained=load_trained(run))
    rows = {row["name"]: row["top1"] for row in verify(folder / "export", data, seconds=0.1)["artifacts"]}
    return [rows[f"{profile}.tflite"] for profile in profiles]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder or .zip of 32 x 32 pictures")
    parser.add_argument("--out", type=Path, default=Path("runs/phone"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--kinds", default="plain,registers+merge", help="parts; the first is the anchor")
    parser.add_argument("--float", action="store_true", help="without quantization-aware training and files")
    options = parser.parse_args()
    from keras_vit.training import load_data

    data, found = load_data(options.data, 32), {kind: [] for kind in options.kinds.split(",")}
    for seed in options.seeds.split(","):
        for kind, scores in found.items():
            parts = {} if kind == "plain" else {k: v for n in kind.split("+") for k, v in PARTS[n].items()}
            folder = options.out / f"{kind}{seed}"
            variant = {**SHAPE, **parts}
            scores.append(accuracy(data, folder, variant, int(seed), options.epochs, not options.float))
            print(f"{kind}, seed {seed}: {' '.join(f'{score:.2%}' for score in scores[-1])}", flush=True)
    means = {kind: 100 * np.mean([pair[-1] for pair in scores]) for kind, scores in found.items()}
    anchor, *others = means
    for kind in others:
        lost = means[anchor] - means[kind]
        print(f"{anchor} {means[anchor]:.2f}, {kind} {means[kind]:.2f}: {lost:+.2f} points lost", end="")
        print(f", at most {LOST}: {lost <= LOST}")


if __name__ == "__main__":
    sys.exit(main())
