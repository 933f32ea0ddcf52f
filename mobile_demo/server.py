"""The page and an export directory over HTTP: what `keras-vit demo-app` starts. Standard library only.

    server = make_server("dist", port=8000)
    server.serve_forever()

    /            the files of `page/`, which `make web` builds
    /export/     manifest.json, labels.txt and the .tflite files of the export directory, and nothing else

LiteRT's wasm files are stored as .gz and sent so; a browser unpacks them. The headers isolate the page from
other sites, which browsers ask for before they give WebAssembly more than one thread.
"""

import errno
import gzip
import shutil
import socket
import ssl
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from keras_vit.errors import InputError
from keras_vit.export.manifest import read_manifest
from keras_vit.files import atomic_directory

PAGE = Path(__file__).parent / "page"
CIFAR10 = Path(__file__).parent / "cifar10" / "export"  # what is shown when no other model is given
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tflite": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "Cache-Control": "no-cache",  # the service worker keeps what does not change
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class DemoServer(ThreadingHTTPServer):
    """A server of the page and of one export directory."""

    daemon_threads = True
    allow_reuse_port = False

    def __init__(self, address, directory, page, certificate):
        self.directory, self.page, self.context = directory, page, None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        super().__init__(address, DemoHandler)

    def finish_request(self, request, client_address):
        # In the thread of this request: a browser that dislikes the certificate must not hold up the others.
        if self.context:
            request.settimeout(20)
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        """Say nothing: a browser that left, or that does not trust the certificate, is no error."""

    def find(self, path):
        """(the file for an address's path or None, whether it is stored as .gz). Only listed files exist."""
        name = unquote(path).removeprefix("/")
        folder, _, inside = name.partition("/")
        if folder == "export":
            offered = {file.name: file for file in exported_files(self.directory)}
            return offered.get(inside), False
        offered = page_files(self.page)
        name = name or "index.html"
        return offered.get(name) or offered.get(f"{name}.gz"), name not in offered


class DemoHandler(BaseHTTPRequestHandler):
    """GET and HEAD of single files."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "keras-vit", ""
    timeout = 60

    def do_GET(self):
        file, packed = self.server.find(urlsplit(self.path).path)
        if file is None:
            self.send_error(404)
            return
        try:
            size, changed = file.stat().st_size, file.stat().st_mtime_ns
        except OSError:
            self.send_error(404)
            return
        tag = f'"{changed:x}-{size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        unpack = packed and "gzip" not in self.headers.get("Accept-Encoding", "")
        body = gzip.decompress(file.read_bytes()) if unpack else None
        self.send_response(200)
        self.send_header("Content-Type", TYPES.get(Path(file.name.removesuffix(".gz")).suffix, "text/plain"))
        self.send_header("Content-Length", str(size if body is None else len(body)))
        self.send_header("ETag", tag)
        if packed:
            self.send_header("Vary", "Accept-Encoding")
            if not unpack:
                self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.command == "HEAD":
            return
        if body is not None:
            self.wfile.write(body)
            return
        with open(file, "rb") as content:
            shutil.copyfileobj(content, self.wfile)

    do_HEAD = do_GET

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format, *arguments):
        """Say nothing: a page loads dozens of files."""


def make_server(directory, host="127.0.0.1", port=0, certificate=None, page=PAGE):
    """A `DemoServer` that listens, to be started with `serve_forever()`.

    Args:
        directory: an export directory.
        host: the address to listen at; "0.0.0.0" is every network of this machine.
        port: 0 takes one that is free; `server.server_port` says which.
        certificate: a PEM file with key and certificate, for https.
        page: the built page.

    Raises:
        InputError: `directory` is no export directory, the page was not built, or the port is taken.
    """
    check_export(directory)
    check_page(page)
    try:
        return DemoServer((host, port), Path(directory), Path(page), certificate)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is in use: choose another with --port, or --port 0 for any that is free."
        elif error.errno == errno.EACCES:
            why = f"port {port} needs the rights of an administrator: choose one from 1024 to 65535."
        else:
            why = f"{host!r} is no address of this machine: leave out --host, or give 127.0.0.1."
        raise InputError(why) from error
    except OverflowError as error:
        raise InputError(f"{port} is no port: choose one from 1024 to 65535, or 0 for any.") from error


def write_site(directory, out, page=PAGE):
    """Write page and export directory as one folder, for a web server that serves files.

    Raises:
        InputError: as `make_server`; or `out` is something else than such a folder.
    """
    check_export(directory)
    check_page(page)
    out = Path(out)
    if out.exists() and not (out / "sw.js").is_file():
        raise InputError(f"{out} exists and is not a page that was written before: choose another --out.")
    with atomic_directory(out) as temporary:
        for name, file in page_files(page).items():
            target = temporary / name.removesuffix(".gz")
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            target.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        (temporary / "export").mkdir()
        for file in exported_files(directory):
            shutil.copyfile(file, temporary / "export" / file.name)


def page_files(page):
    """{name: path} of the built page's files."""
    return {file.relative_to(page).as_posix(): file for file in Path(page).rglob("*") if file.is_file()}


def exported_files(directory):
    """The files of an export directory that the page needs."""
    names = ("manifest.json", "labels.txt")
    return [
        file
        for file in sorted(Path(directory).iterdir())
        if file.is_file() and (file.name in names or file.suffix == ".tflite")
    ]


def check_export(directory):
    """Raises InputError if `directory` has no manifest, or no .tflite file."""
    read_manifest(directory)
    if not any(file.suffix == ".tflite" for file in exported_files(directory)):
        raise InputError(f"{directory} holds no .tflite file: export the model with keras-vit export.")


def check_page(page=PAGE):
    """Raises InputError if the page was not built, or only in part."""
    files = page_files(page)
    if "index.html" not in files or not any(name.endswith(".wasm.gz") for name in files):
        raise InputError(
            f"the built page is missing in {page}: run `make web` in the repository (it needs Node.js), "
            "or install keras-vit again."
        )


def network_address():
    """This machine's address in its network, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which network would be used
            return probe.getsockname()[0]
        except OSError:
            return None


def make_certificate(folder, hosts):
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


def temporary_folder():
    """Where a certificate lives while the server runs."""
    return tempfile.TemporaryDirectory(prefix="keras-vit-")
