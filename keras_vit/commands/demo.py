"""`keras-vit demo`: the whole way on digits, or one of the multimodal scenarios."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.evaluate import evaluate
from keras_vit.commands.export import export
from keras_vit.commands.predict import predict
from keras_vit.commands.quantize import quantize
from keras_vit.commands.terminal import console, import_tensorflow, say, wide_console
from keras_vit.commands.train import train
from keras_vit.errors import one_of
from keras_vit.scenarios import SCENARIOS


def demo(
    out: Annotated[Path | None, typer.Option(help="Where everything goes; runs/demo by default.")] = None,
    scenario: Annotated[
        str | None, typer.Option(help=f"A multimodal one instead: {', '.join(SCENARIOS)}.")
    ] = None,
) -> None:
    """The whole way on handwritten digits: train, quantize, export, evaluate, predict."""
    if scenario is not None:
        one_of("scenario", scenario, SCENARIOS)
        import_tensorflow()
        from keras_vit.scenarios.running import notes, run, table

        folder = out or Path("runs") / scenario
        found = run(scenario, folder, console())
        wide_console().print(table(found))
        for line in notes(found):
            print(line)
        also = f"; {folder / 'run'} is a RUN like any other: quantize, export, explain"
        say(f"{folder / 'scores.json'}{also if (folder / 'run').exists() else ''}")
        return
    out = out or Path("runs/demo")
    folder, directory, sample = out / "run", out / "export", out / "sample.png"

    def step(function, *arguments, **options):
        words = [function.__name__]
        for argument in arguments:
            words += argument if isinstance(argument, list) else [argument]
        for key, value in options.items():
            words += [f"--{key}", value]
        say("")
        say("$ keras-vit " + " ".join(map(str, words)))
        function(*arguments, **options)

    step(train, "digits", out=folder)
    for profile in ("int8", "int8_static"):
        step(quantize, folder, profile=profile)
    step(export, folder, out=directory, profiles="float32,int8,int8_static")
    from PIL import Image

    from keras_vit.data.image_data import load_data

    picture = load_data("digits").test
    Image.fromarray(picture.images[-1]).save(sample)
    step(predict, directory / "int8_static.tflite", [sample])
    step(evaluate, directory, "digits")
