"""`keras-vit demo-app`: what it serves, what it does not, and what it says of bad input."""

import gzip
import http.client
import json
import shutil
import socket
import ssl
import threading
from urllib.parse import urlsplit

import command_line
import pytest

from keras_vit.errors import InputError
from keras_vit.mobile_demo import server as demo


@pytest.fixture
def exported(tmp_path):
    """The files of an export directory, of which only the manifest must be real."""
    folder = tmp_path / "dist"
    (folder / "saved_model" / "1").mkdir(parents=True)
    (folder / "saved_model" / "1" / "saved_model.pb").write_bytes(b"not for the page")
    (folder / "float32.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(2000))
    (folder / "labels.txt").write_text("cat\n鱼\n", encoding="utf-8")
    (folder / "report.html").write_text("not for the page")
    manifest = {
        "format": 1,
        "image_size": [8, 8],
        "labels": ["cat", "鱼"],
        "artifacts": [{"name": "float32.tflite", "source": "keras/float32.keras", "bytes": 2008}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "secret.txt").write_text("outside")
    return folder


def get(address, path, method="GET", **headers):
    """(status, headers, body) of a path exactly as it stands: no client tidies its dots away."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_page_and_export_come_with_their_types_and_isolated(exported, serve):
    url = serve(exported)
    types = {
        "/": "text/html; charset=utf-8",
        "/assets/index.js": "text/javascript; charset=utf-8",
        "/assets/index.css": "text/css; charset=utf-8",
        "/sw.js": "text/javascript; charset=utf-8",
        "/app.webmanifest": "application/manifest+json",
        "/icon-192.png": "image/png",
        "/export/manifest.json": "application/json",
        "/export/labels.txt": "text/plain; charset=utf-8",
        "/export/float32.tflite?v=123": "application/octet-stream",
    }
    for path, kind in types.items():
        status, headers, body = get(url, path)
        assert (status, headers["Content-Type"]) == (200, kind) and body, path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get(url, "/export/labels.txt")[2].decode() == "cat\n鱼\n"
    status, headers, body = get(url, "/export/float32.tflite", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "2008", b"")
    tag = headers["ETag"]
    assert get(url, "/export/float32.tflite", If_None_Match=tag)[::2] == (304, b"")


@pytest.mark.parametrize("variant", ["", "_compat", "_threaded"])
def test_wasm_travels_packed_to_whoever_can_unpack_it(exported, serve, variant):
    url, path = serve(exported), f"/wasm/litert_wasm{variant}_internal.wasm"
    _, headers, packed = get(url, path, Accept_Encoding="gzip, br")
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/wasm", "gzip")
    _, headers, plain = get(url, path)
    assert headers["Content-Encoding"] is None and plain[:4] == b"\0asm"
    assert gzip.decompress(packed) == plain and len(packed) < len(plain) / 3


@pytest.mark.parametrize(
    "path",
    [
        "/export/",
        "/export/saved_model/1/saved_model.pb",
        "/export/report.html",
        "/export/../secret.txt",
        "/export/%2e%2e/secret.txt",
        "/export/..%2fsecret.txt",
        "/export//etc/passwd",
        "/../server.py",
        "/%2e%2e/server.py",
        "/assets",
        "/wasm/..%5c..%5cserver.py",
        "//etc/passwd",
        "/nothing",
    ],
)
def test_nothing_else_is_served(exported, serve, path):
    status, _, body = get(serve(exported), path)
    assert status == 404 and b"outside" not in body and b"not for the page" not in body


def run(capsys, *words):
    """(exit code, standard error) of `keras-vit demo-app WORDS`."""
    code, _, err = command_line.run(capsys, "demo-app", *words)
    return code, err


def test_bad_input_is_one_line(exported, tmp_path, capsys, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = {
            (tmp_path / "nowhere",): "does not exist: give a directory that keras-vit export wrote",
            (tmp_path,): "holds no manifest.json",
            (exported, "--host", "127.0.0.1", "--port", port): f"port {port} is in use: choose another",
            (exported, "--port", 70000): "70000 is no port",
            (exported, "--host", "203.0.113.7"): "is no address of this machine",
            (exported, "--host", "::1"): "only IPv4 addresses",
            (exported, "--out", tmp_path): "is not a page that was written before",
        }
        for words, sentence in wanted.items():
            code, said = run(capsys, *words)
            assert code == 2 and said.startswith("error: ") and sentence in said and said.count("\n") == 1
    with pytest.raises(InputError, match="make web"):
        demo.make_server(exported, page=tmp_path / "no page")
    (exported / "float32.tflite").unlink()
    code, said = run(capsys, exported)
    assert code == 2 and "holds no .tflite file" in said


def test_the_command_says_where_it_serves_and_ends_by_ctrl_c(exported, capsys, monkeypatch):
    monkeypatch.setattr(demo, "network_address", lambda: "192.0.2.7")

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.DemoServer, "serve_forever", interrupted)
    code, said = run(capsys, exported, "--port", "0")
    assert code == 0 and "On this machine:  http://localhost:" in said
    assert "http://192.0.2.7:" in said and "▄" in said  # the QR code
    assert "add --https" in said
    code, said = run(capsys, exported, "--port", "0", "--host", "127.0.0.1")
    assert code == 0 and "http://localhost:" in said and "▄" not in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="--https needs the program openssl")
def test_https_has_a_certificate_for_the_addresses_it_is_opened_by(exported, tmp_path):
    certificate = demo.make_certificate(tmp_path, ["localhost", "127.0.0.1"])
    with demo.make_server(exported, certificate=certificate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        trusting = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        for host in ("localhost", "127.0.0.1"):
            connection = http.client.HTTPSConnection(host, server.server_port, context=trusting, timeout=10)
            connection.request("GET", "/export/labels.txt")
            assert connection.getresponse().read().decode() == "cat\n鱼\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            http.client.HTTPSConnection("localhost", server.server_port, timeout=10).request("GET", "/")
        connection.request("GET", "/")  # one that distrusts it does not stop the others
        assert connection.getresponse().status == 200
        server.shutdown()


def test_a_site_is_the_page_and_the_export_unpacked(exported, tmp_path):
    demo.write_site(exported, tmp_path / "site")
    demo.write_site(exported, tmp_path / "site")  # in the place of the former
    files = demo.page_files(tmp_path / "site")
    assert {"index.html", "sw.js", "assets/index.js", "export/manifest.json", "export/float32.tflite"} <= set(
        files
    )
    assert files["wasm/litert_wasm_internal.wasm"].read_bytes()[:4] == b"\0asm"
    assert not any(name.endswith(".gz") or "saved_model" in name for name in files)
