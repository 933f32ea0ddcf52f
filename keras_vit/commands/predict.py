"""`keras-vit predict`: the most probable classes of pictures, or of an example of several modalities."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.answers import PROBABILITY, default_labels, ranked, shown
from keras_vit.commands.terminal import import_tensorflow, print_json, without_chatter
from keras_vit.errors import InputError, printable

Text = Annotated[str | None, typer.Option(help="Words, for a model that reads.")]
Audio = Annotated[Path | None, typer.Option(help="A .wav file, for a model that hears.")]
Video = Annotated[Path | None, typer.Option(help="A .npy or .gif file, for a model that sees clips.")]
Action = Annotated[Path | None, typer.Option(help="A .npy or .csv file, for a model of tracks.")]


def predict(
    model: Annotated[Path, typer.Argument(help="A model.keras, a .tflite or a SavedModel folder.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE...]", help="Picture files.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file, beside other modalities.")] = None,
    text: Text = None,
    audio: Audio = None,
    video: Video = None,
    action: Action = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
):
    """Name what is on pictures: the most probable classes. Modalities that are not given are absent."""
    import numpy as np

    images = [*(images or []), *([image] if image else [])]
    given = {"text": text, "audio": audio, "video": video, "action": action}
    given = {name: value for name, value in given.items() if value is not None}
    if not images and not given:
        raise InputError("nothing is given: name a picture, or --image, --text, --audio, --video, --action.")
    from keras_vit.export.runners import load_runner

    if model.exists() and model.suffix != ".tflite":
        import_tensorflow()
    with without_chatter():
        runner = load_runner(model)
    if runner.image_size is None:
        from keras_vit.export.modalities_near import raw_inputs

        if len(images) > 1:
            raise InputError(f"{model} takes one example at a time, not {len(images)} pictures.")
        if images:
            given["image"] = images[0]
        import_tensorflow()
        names = [" ".join(f"{name}={value}" for name, value in given.items())]
        answers = runner.predict(raw_inputs(runner, given))
    else:
        from keras_vit.training.images import decode

        if given:
            raise InputError(f"{model} takes pictures alone, not {', '.join(given)}.")
        names = [str(path) for path in images]
        answers = runner.predict(np.stack([decode(path, runner.image_size) for path in images]))
    labels = runner.labels or default_labels(runner.classes, runner.output)
    value = "probability" if runner.output == PROBABILITY else "logit"
    results = [
        {
            "image" if runner.image_size else "inputs": name,
            "predictions": [{"label": label, value: round(x, 6)} for label, x in ranked(row, labels, top)],
        }
        for name, row in zip(names, answers, strict=True)
    ]
    if as_json:
        print_json(results)
        return
    for name, result in zip(names, results, strict=True):
        print(printable(name))
        for prediction in result["predictions"]:
            print(f"  {shown(prediction[value], runner.output)}  {printable(prediction['label'])}")
