"""`keras-vit explain`: what a model looked at, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.answers import shown
from keras_vit.commands.common import check_path
from keras_vit.commands.predict import Action, Audio, Text, Video
from keras_vit.commands.terminal import import_tensorflow, say, without_chatter
from keras_vit.errors import InputError, printable


def explain(
    model: Annotated[Path, typer.Argument(help="A RUN folder or its model.keras.")],
    out: Annotated[Path, typer.Option(help="The picture to write, e.g. why.png.")],
    picture: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help="A picture file.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture file, beside other modalities.")] = None,
    text: Text = None,
    audio: Audio = None,
    video: Video = None,
    action: Action = None,
) -> None:
    """Show what the model looked at: attention over patches and words, beside its answer."""
    if picture is not None and image is not None:
        raise InputError(f"two pictures are given, {picture} and {image}: give one.")
    if all(value is None for value in (picture, image, text, audio, video, action)):
        raise InputError("nothing is given: name a picture, or --image, --text, --audio, --video, --action.")
    check_path(model, f"there is no {model}: give a RUN folder or its model.keras.")
    for path in filter(None, (picture, image)):
        check_path(path, f"there is no picture {str(path)!r}.")
        if path.is_dir():
            raise InputError(f"{path} is a folder: explain draws one picture, so name one of those in it.")
    for path in filter(None, (audio, video, action)):
        check_path(path, f"there is no {path}: give a file.")
    from keras_vit.export.verification.manifest import check_listed

    check_listed(model)
    import_tensorflow()
    from keras_vit import inspect

    with without_chatter():
        predictions = inspect.explain(
            model, picture or image, out, text=text, audio=audio, video=video, action=action
        )
    for label, value in predictions:
        print(f"  {shown(value, predictions.output)}  {printable(label)}")
    say(str(out))
