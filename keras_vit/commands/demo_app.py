"""`keras-vit demo-app`: the model of an export directory in a browser, on this machine or a phone."""

from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.terminal import say
from keras_vit.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")


def demo_app(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPORT_DIR]",
            help="A directory made by `keras-vit export`; by default a small model of CIFAR-10.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 is every network of this machine; 127.0.0.1 this machine alone.")
    ] = "0.0.0.0",
    https: Annotated[
        bool, typer.Option("--https", help="With a certificate of its own: a phone needs it for the camera.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Serve nothing: write the page as a folder for any web host.")
    ] = None,
):
    """Show your model in a browser: camera, photos, every exported file, offline after the first visit."""
    from keras_vit.mobile_demo import server

    directory = directory or server.CIFAR10
    if out is not None:
        server.write_site(directory, out)
        say(f"{out}: put it on any https:// web host; the page is index.html")
        return
    if ":" in host:
        raise InputError(f"--host {host}: only IPv4 addresses and names can be given, such as 0.0.0.0.")
    outside = None if host in LOCAL else (host if host != "0.0.0.0" else server.network_address())
    with server.temporary_folder() as scratch:
        names = dict.fromkeys(filter(None, ["localhost", "127.0.0.1", outside]))
        certificate = server.make_certificate(scratch, names) if https else None
        with server.make_server(directory, host, port, certificate) as running:
            scheme, number = ("https" if https else "http"), running.server_port
            if host in (*LOCAL, "0.0.0.0"):
                say(f"On this machine:  {scheme}://localhost:{number}")
            if outside:
                _show_phone(f"{scheme}://{outside}:{number}", https)
            say("Ctrl-C ends it.")
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                say("")


def _show_phone(address, https):
    """The address for a phone in the same network, and as a QR code."""
    import sys

    import segno

    say(f"On a phone in the same network:  {address}")
    say("")
    segno.make(address, error="m").terminal(out=sys.stderr, border=2, compact=True)
    if https:
        say("The browser warns of the certificate, as it is this machine's own: go on to the page.")
        say("Camera and photos work then, but browsers keep no page with such a certificate for offline use.")
    else:
        say("Browsers allow the camera there only with https: add --https. Photos work without.")
