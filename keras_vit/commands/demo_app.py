"""`keras-vit demo-app`: the model of an export directory in a browser, on this machine or a phone."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from keras_vit.commands.terminal import say
from keras_vit.errors import InputError

LOCAL = ("127.0.0.1", "localhost")


def demo_app(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPORT_DIR]",
            help="A directory made by `keras-vit export`; by default a small model of CIFAR-10.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    network: Annotated[
        bool,
        typer.Option("--network", help="For phones in the same network too, not for this machine alone."),
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="With --network: the one address of this machine to listen at.")
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="With a certificate of its own: a phone needs it for the camera.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Serve nothing: write the page as a folder for any web host.")
    ] = None,
) -> None:
    """Show your model in a browser: camera, photos, every exported file, offline after the first visit."""
    from keras_vit.mobile_demo import local_network, server, site

    directory = directory or site.CIFAR10
    if out is not None:
        site.write_site(directory, out)
        say(f"{out}: put it on any https:// web host; the page is index.html")
        return
    if host is not None and ":" in host:
        raise InputError(f"--host {host}: only IPv4 addresses and names can be given, such as 0.0.0.0.")
    if host is not None and host not in LOCAL and not network:
        raise InputError(f"--host {host} would let others read the page: add --network if they shall.")
    host = host or ("0.0.0.0" if network else "127.0.0.1")
    outside = None if host in LOCAL else (host if host != "0.0.0.0" else local_network.network_address())
    token = secrets.token_urlsafe(16) if network else ""
    with local_network.temporary_folder() as scratch:
        names = dict.fromkeys(filter(None, ["localhost", "127.0.0.1", outside]))
        certificate = local_network.make_certificate(scratch, names) if https else None
        options = {"certificate": certificate, "token": token, "network": network}
        with server.make_server(directory, host, port, **options) as running:
            scheme, end = (
                ("https" if https else "http"),
                f":{running.server_port}" + (f"/{token}/" if token else ""),
            )
            if host in (*LOCAL, "0.0.0.0"):
                say(f"On this machine:  {scheme}://localhost{end}")
            if outside:
                _show_phone(f"{scheme}://{outside}{end}", https)
            if network:
                say(_who_reads(https))
            else:
                say("For a phone in the same network: add --network.")
            say("Ctrl-C ends it.")
            try:
                running.serve_forever()
            except KeyboardInterrupt:
                say("")


def _who_reads(https):
    """Who can read what, of a server that is open to the network."""
    said = (
        "Whoever has this address and reaches this machine can read the page, the labels, the manifest and "
        "every .tflite file until it ends, and nothing else; pictures stay in the browser."
    )
    return said if https else f"{said} Without --https, the network can read the address on its way."


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
