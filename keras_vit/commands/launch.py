"""`keras-vit launch`: several worker processes on this machine."""

import sys
from typing import Annotated

import typer


def launch(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What each of them runs: train ...")
    ],
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 2,
) -> None:
    """Train in several worker processes on this machine, to try out what many machines will do."""
    from keras_vit.distributed.launching import launch

    sys.exit(launch(command, workers))
