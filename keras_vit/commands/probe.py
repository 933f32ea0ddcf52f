"""`keras-vit probe`: how good the features of a model are, before anything is fine-tuned."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.common import check_data, check_model, load_images
from keras_vit.commands.options import Data, SkipBad
from keras_vit.commands.terminal import import_tensorflow, print_json, task, wide_console, without_chatter
from keras_vit.errors import one_of


def probe(
    model: Annotated[Path, typer.Argument(help="A RUN (also of `pretrain`), a model.keras or a checkpoint.")],
    data: Data,
    method: Annotated[str, typer.Option(help="linear (logistic regression), knn or both.")] = "both",
    k: Annotated[int, typer.Option(help="Neighbours that vote, for knn.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    skip_bad: SkipBad = False,
) -> None:
    """Score the frozen features of a model by a linear probe and by nearest neighbours."""
    one_of("probe", method, ("linear", "knn", "both"))
    check_model(model, "probe")
    check_data(data)
    import_tensorflow()
    from keras_vit.training.imports import load_start
    from keras_vit.training.methods import probing

    with without_chatter():
        vit = load_start(model, option="probe")
    loaded = load_images(data, vit.image_size, skip_bad, channels=vit.config.channels)
    with task("probing") as progress:
        accuracies = probing.probe(
            vit, loaded, probing.METHODS if method == "both" else (method,), k, progress
        )
    if as_json:
        about = {"model": str(model), "data": data, "width": vit.config.width, "k": k}
        print_json({**about, "train": len(loaded.train), "test": len(loaded.test), **accuracies})
        return
    wide_console().print(_table(accuracies, model, vit.config.width, k))


def _table(accuracies, model, width, k):
    from rich.table import Table

    table = Table(title=f"{model}: {width} frozen features", title_justify="left")
    table.add_column("classifier")
    table.add_column("held-out top-1", justify="right")
    names = {"linear": "linear probe", "knn": f"{k} nearest neighbours"}
    for method, accuracy in accuracies.items():
        table.add_row(names[method], f"{accuracy:.4f}")
    return table
