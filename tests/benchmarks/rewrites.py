"""What does each exact rewrite of the deploy graph save? Time without it, as a ratio to the file with all.

    python tests/benchmarks/rewrites.py --variant Ti/16             # 224 x 224, about 5 minutes

One row for each rewrite of `export.tflite.rewrites`, and for two that are in the layers themselves: patches
as a matrix product instead of a convolution, and only [CLS] through the last block. Random weights; all
files take turns, round by round. Anchors, from a prototype: the patches 5%, [CLS] 6%.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ANCHORS = {"patches as a matrix product": 1.05, "only [CLS] through the last block": 1.06}


def files(variant, image_size, folder):
    """Write float32 and int8_static files with all rewrites, and without each; return their names."""
    import keras

    import keras_vit
    from keras_vit.export.quantization.model import QuantizeAware
    from keras_vit.export.tflite.convert import float_file, quantized_file
    from keras_vit.export.tflite.fold import fold
    from keras_vit.export.tflite.rewrites import REWRITES

    keras.utils.set_random_seed(0)
    model = keras_vit.ViT(variant, image_size=image_size, num_classes=1000, layer_scale=0.1)
    model.head.kernel.assign(np.random.default_rng(0).normal(0, 0.02, model.head.kernel.shape))
    for variable in model.trainable_variables:  # zeros would vanish by themselves
        if len(variable.shape) == 1:
            variable.assign(variable + np.random.default_rng(1).normal(0, 0.1, variable.shape))
    images = np.random.default_rng(2).integers(0, 256, (4, *model.image_size, 3), dtype=np.uint8)

    def write(name, plain, aware=None, conv=False, compute_all_tokens=False):
        if conv:
            plain = plain.rebuilt(stem="conv")
        plain.compute_all_tokens = compute_all_tokens
        (folder / f"float32 {name}.tflite").write_bytes(float_file(plain))
        if aware is None:
            return
        aware = QuantizeAware(aware, "int8_static")
        aware.model.compute_all_tokens = compute_all_tokens
        aware.calibrate(images)
        plain, ranges = aware.deploy()
        plain.compute_all_tokens = compute_all_tokens
        # Some factors the converter itself moves into a kernel, which then is none of the model's any more.
        with contextlib.suppress(RuntimeError):
            content = quantized_file(plain, ranges, aware.spec)
            (folder / f"int8_static {name}.tflite").write_bytes(content)

    write("all", fold(model), fold(model, pixels=False))
    write("patches as a matrix product", fold(model), conv=True)
    write(
        "only [CLS] through the last block", fold(model), fold(model, pixels=False), compute_all_tokens=True
    )
    for left_out in REWRITES:
        others = [name for name in REWRITES if name != left_out]
        aware = None if left_out == "pixels" else fold(model, pixels=False, rewrites=others)
        write(left_out, fold(model, rewrites=others), aware)
    return ["patches as a matrix product", "only [CLS] through the last block", *REWRITES]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="Ti/16")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=8, help="for each file and round")
    options = parser.parse_args()
    from keras_vit.export.verification.runners import load_runner

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = files(options.variant, options.image_size, folder)
        runners = {path.stem: load_runner(path) for path in sorted(folder.glob("*.tflite"))}
        size = next(iter(runners.values())).image_size
        image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
        times = {key: [] for key in runners}
        for _ in range(options.rounds):
            for key, runner in runners.items():
                times[key].append(np.median(runner.time_one(image, seconds=0, warmup=2, least=options.runs)))
    print(f"ViT-{options.variant} at {options.image_size}: time without the rewrite / time with all")
    print(f"{'rewrite':<36}{'float32':>9}{'int8_static':>13}{'operators':>11}{'anchor':>8}")
    for row in rows:
        cells = []
        for profile in ("float32", "int8_static"):
            found = f"{profile} {row}" in times
            ratio = (
                np.median(np.divide(times[f"{profile} {row}"], times[f"{profile} all"])) if found else None
            )
            cells.append(f"{ratio:.3f}x" if found else "-")
        count = [sum(runners[f"float32 {key}"].operators.values()) for key in (row, "all")]
        anchor = f"{ANCHORS[row]}x" if row in ANCHORS else ""
        print(f"{row:<36}{cells[0]:>9}{cells[1]:>13}{count[0] - count[1]:>+11}{anchor:>8}")


if __name__ == "__main__":
    sys.exit(main())
