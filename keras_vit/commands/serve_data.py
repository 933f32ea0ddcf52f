"""`keras-vit serve-data`: prepare training pictures for other processes, until it is stopped."""

import os
import signal
import threading
from typing import Annotated

import typer

from keras_vit.commands.terminal import import_tensorflow, say, without_chatter


def serve_data(
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Where to listen; 0 is any free port. With --join, 0 will do."),
    ] = 0,
    host: Annotated[
        str | None, typer.Option(help="How others reach this machine. Default: its name.")
    ] = None,
    join: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Work for the one that runs there already.")
    ] = None,
) -> None:
    """Read and augment pictures for `train --data-service`, on this machine's cores, until Ctrl-C."""
    import_tensorflow()
    from keras_vit.data.service import serve

    with without_chatter():
        address, _servers = serve(port, host, join)
    role = "working for" if join else "serving at"
    say(f"{role} {address}; keras-vit train PACKED --data-service {address}")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    os._exit(0)  # there is nothing to save, and the servers would wait for who is still asking them
