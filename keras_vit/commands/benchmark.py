"""`keras-vit benchmark`: latency, memory and size of models, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_path
from keras_vit.commands.terminal import print_json, task, wide_console


def benchmark(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A .tflite of any tool, a .keras, .onnx or OpenVINO .xml file, a SavedModel folder, "
            "or a folder made by `keras-vit export` for all in it.",
        ),
    ],
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads, separated by commas.")] = "1,2",
    seconds: Annotated[float, typer.Option(help="How long to time each file at each of them.")] = 3.0,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also the time per kind of operator of each .tflite.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Latency, memory and size of models, side by side; the first is what the others are compared with."""
    from keras_vit.export.verification.benchmark import GIVE, benchmark
    from keras_vit.export.verification.benchmark_report import pages

    for path in files:
        check_path(path, f"there is no {path}: give {GIVE}.")
    with task("measuring") as progress:
        report = benchmark(files, threads, seconds, operators, progress)
    if as_json:
        print_json(report)
        return
    wide_console().print(*pages(report), sep="\n")
