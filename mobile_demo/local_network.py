"""This machine's address in its network, and a certificate for it."""

import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keras_vit.errors import InputError


def network_address() -> str | None:
    """This machine's address in its network, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which network would be used
            return probe.getsockname()[0]
        except OSError:
            return None


def make_certificate(folder: Path, hosts: Sequence[str]) -> Path:
    """A PEM file in `folder` with a key and a self-signed certificate for `hosts`, valid for a month."""
    key, certificate = Path(folder) / "key.pem", Path(folder) / "certificate.pem"
    names = ",".join(f"{'IP' if host[-1].isdigit() else 'DNS'}:{host}" for host in hosts)
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "30", "-subj", "/CN=keras-vit demo", "-addext", f"subjectAltName={names}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise InputError("--https needs the program `openssl`: install it, or leave out --https.") from error
    except subprocess.CalledProcessError as error:
        why = (error.stderr.decode(errors="replace").strip() or "no reason given").splitlines()[-1]
        raise InputError(f"openssl made no certificate: {why}") from error
    both = Path(folder) / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def temporary_folder() -> tempfile.TemporaryDirectory:
    """Where a certificate lives while the server runs."""
    return tempfile.TemporaryDirectory(prefix="keras-vit-")
