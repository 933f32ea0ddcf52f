"""Does an exported multimodal model answer as its Keras model does, also where a modality is absent?

    keras-vit demo --scenario missing-text --out runs/missing-text
    python tests/benchmarks/multimodal_export.py runs/missing-text/run        # 3 minutes

Quantization-aware training of the RUN (one epoch for each profile), export, and all held-out examples in
LiteRT; then the same files again with each modality absent in turn, by `present`. Agreement is the share
of examples whose class equals that of the Keras model that was exported. Anchor: 99.5% for int8_static.
"""

import argparse
import dataclasses
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

ANCHORS = {"int8_static.tflite": 0.995, "int8.tflite": 0.999, "int4.tflite": 0.999}


def without(data, name):
    """The same data, its test examples without one modality: `present` says so, the input stays."""
    present = np.ones((len(data.test), len(data.modalities)), "float32")
    present[:, list(data.modalities).index(name)] = 0
    test = dataclasses.replace(data.test, inputs={**data.test.inputs, "present": present})
    return dataclasses.replace(data, test=test)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the RUN of a scenario")
    parser.add_argument("--profiles", default="int8,int8_static")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    from keras_vit.export import export, verify
    from keras_vit.export.quantization.finetune import finetune, load_model, load_trained
    from keras_vit.scenarios import scenario
    from keras_vit.training.runs import read_run

    data = scenario(read_run(options.run)["data"]["source"]).make()
    profiles = options.profiles.split(",")
    for profile in profiles:
        finetune(options.run, profile, data, epochs=options.epochs)
    folder = options.run.with_name("export")
    shutil.rmtree(folder, ignore_errors=True)
    export(
        load_model(options.run),
        folder,
        ["float32", *profiles],
        labels=data.labels,
        trained=load_trained(options.run),
    )
    table = Table("given", "file", "top-1", "agreement", "max difference", "XNNPACK", "anchor")
    for title, shown in [("all", data)] + [
        (f"no {name}", without(data, name)) for name in data.modalities if len(data.modalities) > 1
    ]:
        for row in verify(folder, shown, seconds=0.2)["artifacts"]:
            if not row["name"].endswith(".tflite"):
                continue
            anchor = ANCHORS.get(row["name"])
            met = "" if anchor is None else f"at least {anchor:.1%}: {row['agreement'] >= anchor}"
            table.add_row(
                title,
                row["name"],
                f"{row['top1']:.2%}",
                f"{row['agreement']:.2%}",
                f"{row['max_abs_diff']:.1e}",
                f"{row['delegated']:.0%}",
                met,
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
