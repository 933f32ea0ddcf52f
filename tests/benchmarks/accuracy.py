"""Does quantization keep the accuracy, and does every copy answer alike? The whole way on real pictures.

    python tests/benchmarks/accuracy.py digits --seeds 0,1,2                     # about 4 minutes a seed
    python tests/benchmarks/accuracy.py cifar10.zip --out runs/cifar10 -- --variant Nano/4 --epochs 15

What follows `--` goes to `keras-vit train`. Each seed is trained, quantized for both profiles, exported
and evaluated by the command line; a run that is already in --out is continued or reused. Every figure
is printed beside its anchor.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

FLOAT_ANCHOR = {"digits": 0.97}  # held-out top-1; for other data there is none
DROP, AGREEMENT, SAVED_MODEL = 0.005, 0.995, 1e-5


def keras_vit(*words):
    subprocess.run([sys.executable, "-m", "keras_vit.cli", *map(str, words)], check=True)


def whole_way(data, folder, seed, options):
    """Train, quantize, export, evaluate; return the rows of the report by name."""
    run, export = folder / "run", folder / "export"
    keras_vit("train", data, "--out", run, "--seed", seed, *options)
    for profile in ("int8", "int8_static"):
        keras_vit("quantize", run, "--profile", profile, "--data", data)
    keras_vit("export", run, "--out", export)
    keras_vit("evaluate", export, data)
    report = json.loads((export / "report.json").read_text())
    return {row["name"]: row for row in report["artifacts"]}


def check(name, value, anchor, better):
    """Print one figure beside its anchor."""
    held = value >= anchor if better == "higher" else value <= anchor
    print(
        f"  {name:<42}{value:>12.6g}   {'at least' if better == 'higher' else 'at most'} {anchor:g}: {held}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="digits, or a folder or .zip")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("options", nargs="*", help="options of keras-vit train, after --")
    options = parser.parse_args()
    results = {
        seed: whole_way(options.data, options.out / f"seed{seed}", seed, options.options)
        for seed in options.seeds.split(",")
    }
    for seed, rows in results.items():
        print(f"{options.data}, seed {seed}")
        top1 = rows["keras/float32.keras"]["top1"]
        if options.data in FLOAT_ANCHOR:
            check("float32 top-1", top1, FLOAT_ANCHOR[options.data], "higher")
        else:
            print(f"  {'float32 top-1':<42}{top1:>12.6g}")
        for profile in ("int8", "int8_static"):
            check(f"{profile}.tflite: top-1 lost", top1 - rows[f"{profile}.tflite"]["top1"], DROP, "lower")
        for name, row in rows.items():
            if row["error"]:
                print(f"  {name}: {row['error']}")
            elif not name.startswith("keras/"):
                check(f"{name}: agreement with its Keras model", row["agreement"], AGREEMENT, "higher")
        check(
            "saved_model/1: largest difference", rows["saved_model/1"]["max_abs_diff"], SAVED_MODEL, "lower"
        )
        base = rows["float32.tflite"]["latency_ms_p50"]
        for profile in ("int8", "int8_static"):
            faster = base / rows[f"{profile}.tflite"]["latency_ms_p50"]
            print(f"  {profile + '.tflite: faster than float32':<42}{faster:>11.2f}x")


if __name__ == "__main__":
    main()
