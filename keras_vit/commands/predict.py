"""`keras-vit predict`: the most probable classes of pictures, or of an example of several modalities."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.answers import PROBABILITY, default_labels, ranked, shown
from keras_vit.commands.common import check_path, say_ignored
from keras_vit.commands.terminal import import_tensorflow, print_json, without_chatter
from keras_vit.errors import InputError, printable

Text = Annotated[str | None, typer.Option(help="Words, for a model that reads.")]
Audio = Annotated[Path | None, typer.Option(help="A .wav file, for a model that hears.")]
Video = Annotated[Path | None, typer.Option(help="A .npy or .gif file, for a model that sees clips.")]
Action = Annotated[Path | None, typer.Option(help="A .npy or .csv file, for a model of tracks.")]
BATCH = 64  # pictures at a time


def predict(
    model: Annotated[Path, typer.Argument(help="A model.keras, a .tflite or a SavedModel folder.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE...]", help="Picture files, or folders of them.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file, beside other modalities.")] = None,
    text: Text = None,
    audio: Audio = None,
    video: Video = None,
    action: Action = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Name what is on pictures: the most probable classes. Modalities that are not given are absent."""
    images = [*(images or []), *([image] if image else [])]
    given = {"text": text, "audio": audio, "video": video, "action": action}
    given = {name: value for name, value in given.items() if value is not None}
    if not images and not given:
        raise InputError("nothing is given: name a picture, or --image, --text, --audio, --video, --action.")
    from keras_vit.export.verification.manifest import check_listed
    from keras_vit.export.verification.runners import KINDS, load_runner, saved_model_folder

    check_path(model, f"there is no {model}: give {KINDS}.")
    for path in (*images, audio, video, action):
        check_path(path, f"there is no {path}: give a file.")
    folders = [path for path in images if path.is_dir()]
    images = _pictures(images)

    check_listed(saved_model_folder(model) if model.is_dir() else model)
    if model.exists() and model.suffix != ".tflite":
        import_tensorflow()
    with without_chatter():
        runner = load_runner(model)
    if runner.image_size is None:
        from keras_vit.export.verification.raw_inputs import raw_inputs

        if len(images) > 1 or folders:
            raise InputError(f"{model} takes one example at a time: name one picture file.")
        if images:
            given["image"] = images[0]
        import_tensorflow()
        names = [" ".join(f"{name}={value}" for name, value in given.items())]
        answers = runner.predict(raw_inputs(runner, given))
    else:
        if given:
            raise InputError(f"{model} takes pictures alone, not {', '.join(given)}.")
        names = [str(path) for path in images]
        answers = _answers(runner, images)
    labels = runner.labels or default_labels(runner.num_classes, runner.output)
    value = "probability" if runner.output == PROBABILITY else "logit"
    results: list[dict] = [
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


def _pictures(paths):
    """The picture files among `paths` and in the folders among them, these sorted by name."""
    from keras_vit.data.decoding import SUFFIXES
    from keras_vit.data.layout import natural
    from keras_vit.data.sources import count_suffixes, open_tree

    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        with open_tree(path) as tree:
            if not tree.files:
                raise InputError(f"{path} has no pictures ({' '.join(SUFFIXES)}): name a folder that has.")
            files += [path / name for name in sorted(tree.files, key=natural)]
            say_ignored(count_suffixes(tree.others), "no pictures that are read")
    return files


def _answers(runner, files):
    """The answer for each of these pictures. Raises InputError that names the bad ones."""
    import numpy as np

    from keras_vit.data.decoding import decode, to_channels

    channels = runner.inputs["image"][0][2]
    answers, problems = [], []
    for start in range(0, len(files), BATCH):  # a folder may hold more than the memory
        pictures = []
        for path in files[start : start + BATCH]:
            try:
                pictures.append(decode(path, runner.image_size))
            except InputError as error:
                problems.append(str(error))
        if pictures and not problems:
            answers.append(runner.predict(to_channels(np.stack(pictures), channels)))
    if len(files) > 1 and problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        reasons = "; ".join(problem.rstrip(".") for problem in problems[:5])
        raise InputError(
            f"{len(problems)} of {len(files)} pictures cannot be used: {reasons}{more}. Mend or delete them."
        )
    if problems:
        raise InputError(problems[0])
    return np.concatenate(answers)
