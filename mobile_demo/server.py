"""The page and an export directory over HTTP: what `keras-vit demo-app` starts. Standard library only.

    server = make_server("dist", port=8000)
    server.serve_forever()

    /            the files of `page/`, which `make web` builds
    /export/     manifest.json, labels.txt and the .tflite files of the export directory, and nothing else

Open to the network, both lie below `/TOKEN/`, a random name that is new with each start. All addresses in the
page are relative, so it works the same there.

LiteRT's wasm files are stored as .gz and sent so; a browser unpacks them. The headers isolate the page from
other sites, which browsers ask for before they give WebAssembly more than one thread, and let it load and run
nothing but its own files.
"""

import contextlib
import errno
import gzip
import io
import os
import secrets
import shutil
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from keras_vit.errors import InputError
from keras_vit.mobile_demo.site import (
    CONTENT_POLICY,
    PAGE,
    check_export,
    check_page,
    exported_files,
    open_file,
    page_files,
)

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
    "Content-Security-Policy": f"{CONTENT_POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LOCAL = ("127.0.0.1", "localhost", "[::1]")
HEAD_BYTES = 16_384  # of a request
HEAD_SECONDS = 20  # in which all of it must come, and the next request of a connection must begin
SEND_SECONDS = 60  # without taking a byte of the answer
CONNECTIONS = 64  # at a time; a browser has six


class DemoServer(ThreadingHTTPServer):
    """A server of the page and of one export directory.

    Attributes:
        token: the first part of every path; "" for none.
        names: what it may be called in a request, `LOCAL` by default.
        network: whether any address of this machine is such a name too.
    """

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = CONNECTIONS

    def __init__(
        self,
        address: tuple[str, int],
        directory: str | Path,
        page: str | Path,
        certificate: str | Path | None = None,
        token: str = "",
        network: bool = False,
    ):
        self.directory, self.page, self.context = directory, page, None
        self.token, self.network, self.names = token, network, set(LOCAL)
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        super().__init__(address, DemoHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the thread of this request: a browser that dislikes the certificate must not hold up the others.
        if self.context:
            request.settimeout(HEAD_SECONDS)
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that left, or that does not trust the certificate, is no error."""

    def find(self, path: str) -> tuple[Path | None, bool]:
        """(the file for a path without its token, or None; whether it is stored as .gz).

        Only files that are listed exist, so there is no way out of the two folders.
        """
        # A slash that is written as %2F is part of a name; no file has one in its name.
        names = [unquote(name, errors="strict") for name in path.split("/")[1:]]
        if any("/" in name for name in names):
            return None, False
        if names[0] == "export":
            offered = {file.name: file for file in exported_files(self.directory)}
            return offered.get("/".join(names[1:])), False
        offered, name = page_files(self.page), "/".join(names) or "index.html"
        return offered.get(name) or offered.get(f"{name}.gz"), name not in offered


class DemoHandler(BaseHTTPRequestHandler):
    """GET and HEAD of single files."""

    server: DemoServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # before 1.0 an answer had no status
    server_version, sys_version = "keras-vit", ""
    timeout = SEND_SECONDS
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def setup(self) -> None:
        super().setup()
        self.received = b""  # and not yet taken for a request

    def handle_one_request(self) -> None:
        """One request, or the end of the connection.

        The base class would wait for a line without end, read what follows a line that is no header as
        the next request, and take what a client sends a byte a minute.
        """
        self.close_connection = True
        self.command, self.request_version, self.requestline = None, self.protocol_version, ""
        head = self._head()
        if head is None:
            return
        line, _, headers = head.partition(b"\r\n")
        self.raw_requestline, self.rfile = line + b"\r\n", io.BytesIO(headers)
        if not self.parse_request():
            return
        refused = self._refusal(head)
        if refused:
            self.send_error(*refused)
        else:
            self.answer()

    def handle(self) -> None:
        super().handle()
        # To close with bytes unread would reset the connection, and the answer might not arrive.
        with contextlib.suppress(OSError, ValueError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            for _ in range(16):
                if not self.connection.recv(HEAD_BYTES):
                    break

    def _head(self):
        """The bytes of the next request, to the empty line; None when none comes."""
        deadline = time.monotonic() + HEAD_SECONDS
        while (end := self.received.find(b"\r\n\r\n")) < 0 and len(self.received) <= HEAD_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            try:
                more = self.connection.recv(HEAD_BYTES)
            except TimeoutError:
                return None
            if not more:
                return None
            self.received += more
        if not 0 <= end <= HEAD_BYTES:
            self.send_error(431)
            return None
        head, self.received = self.received[: end + 4], self.received[end + 4 :]
        self.connection.settimeout(SEND_SECONDS)
        return head

    def _refusal(self, head):
        """(status, why) of a request that is not answered, or None.

        Whatever two readers could understand in two ways is refused, and the connection closed.
        """
        headers = self.headers
        if set(head.replace(b"\r\n", b"")) & set(b"\r\n\0"):
            return 400, "a line ends in an unknown way"
        if headers.defects or headers.get_payload() or any("\n" in value for value in headers.values()):
            return 400, "a header cannot be read"
        if self.request_version not in ("HTTP/1.0", "HTTP/1.1"):
            return 505, "only HTTP/1.0 and HTTP/1.1 are spoken here"
        if self.command not in ("GET", "HEAD"):
            return 405, "only GET and HEAD are known"
        if "Transfer-Encoding" in headers or headers.get_all("Content-Length", ["0"]) != ["0"]:
            return 400, f"a {self.command} has no body"
        hosts = headers.get_all("Host", [])
        if len(hosts) != 1 or not self.path.startswith("/"):
            return 400, "one header Host and a path are needed"
        # A name that somebody else has made lead here would let his page read this one (DNS rebinding).
        addresses = {self.connection.getsockname()[0]} if self.server.network else set()
        if hosts[0].removesuffix(f":{self._port(hosts[0])}").lower() not in self.server.names | addresses:
            return 421, "give the address that keras-vit demo-app printed"
        return None

    def _port(self, host):
        """The port of a Host header, or "". It may be another one than ours, which somebody forwards."""
        _, _, port = host.rpartition(":")
        return port if port.isdigit() and port.isascii() else ""

    def handle_expect_100(self) -> bool:
        return True  # no body is wanted

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.token:
            _, token, rest = path.split("/", 2) if path.count("/") > 1 else (None, path[1:], None)
            if not secrets.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
                self.send_error(403, "give the whole address that keras-vit demo-app printed")
                return
            if rest is None:  # without the slash, relative addresses would lead elsewhere
                self.send_response(308)
                self.send_header("Location", f"/{self.server.token}/")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path = f"/{rest}"
        try:
            file, packed = self.server.find(path)
            content = None if file is None else open_file(file)
        except (OSError, ValueError):  # gone or replaced meanwhile; no UTF-8 in the path
            content = None
        if content is None:
            self.send_error(404)
            return
        with content:
            self.send_file(content, Path(file.name), packed)

    def send_file(self, content: BinaryIO, name: Path, packed: bool) -> None:
        facts = os.fstat(content.fileno())
        size, tag = facts.st_size, f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        unpack = packed and "gzip" not in self.headers.get("Accept-Encoding", "")
        body = gzip.decompress(content.read()) if unpack else None
        self.send_response(200)
        suffix = (name.with_suffix("") if name.suffix == ".gz" else name).suffix
        self.send_header("Content-Type", TYPES.get(suffix, "text/plain"))
        self.send_header("Content-Length", str(size if body is None else len(body)))
        self.send_header("ETag", tag)
        if packed:
            self.send_header("Vary", "Accept-Encoding")
            if not unpack:
                self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.command == "HEAD":
            return
        shutil.copyfileobj(content if body is None else io.BytesIO(body), self.wfile)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a page loads dozens of files."""


def make_server(
    directory: str | Path,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: str | Path | None = None,
    page: str | Path = PAGE,
    token: str = "",
    network: bool = False,
) -> DemoServer:
    """A `DemoServer` that listens, to be started with `serve_forever()`.

    Args:
        directory: an export directory.
        host: the address to listen at; "0.0.0.0" is every network of this machine.
        port: 0 takes one that is free; `server.server_port` says which.
        certificate: a PEM file with key and certificate, for https.
        page: the built page.
        token: with it, what is served lies below `/TOKEN/`, and whoever does not know it gets nothing.
        network: answer requests for other addresses of this machine than 127.0.0.1 and localhost.

    Raises:
        InputError: `directory` is no export directory, the page was not built, or the port is taken.
    """
    check_export(directory)
    check_page(page)
    try:
        return DemoServer((host, port), Path(directory), Path(page), certificate, token, network)
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
