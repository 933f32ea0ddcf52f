"""`keras-vit demo-app`: what it serves, what it does not, and what it says of bad input."""

import gzip
import http.client
import io
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

import command_line
import pytest
import segno

from keras_vit.errors import InputError
from keras_vit.mobile_demo import local_network, site
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
    (folder / ".hidden.tflite").write_text("not for the page")
    (folder / "folder.tflite").mkdir()
    os.mkfifo(folder / "pipe.tflite")
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
        "/export%2fmanifest.json",
        "/assets%2findex.js",
        "/export/%2fetc/passwd",
        "/export/labels.txt%00",
        "/%00",
        "/%ff%fe",
        "/export/.hidden.tflite",
        "/export/pipe.tflite",
        "/export/folder.tflite",
        "/index.html/",
        "/./index.html",
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
            (exported, "--network", "--host", "203.0.113.7"): "is no address of this machine",
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


def test_the_command_serves_this_machine_alone_unless_told(exported, capsys, monkeypatch):
    monkeypatch.setattr(local_network, "network_address", lambda: "192.0.2.7")
    made = []

    def interrupted(self):
        made.append((self.server_address[0], self.network, self.token))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.DemoServer, "serve_forever", interrupted)
    for words in ((), ("--host", "127.0.0.1"), ("--host", "localhost")):
        code, said = run(capsys, exported, "--port", "0", *words)
        assert code == 0 and "On this machine:  http://localhost:" in said and "add --network" in said
        assert "192.0.2.7" not in said and "▄" not in said
        assert made.pop() == ("127.0.0.1", False, "")
    tokens = set()
    for _ in range(2):
        code, said = run(capsys, exported, "--port", "0", "--network")
        host, network, token = made.pop()
        tokens.add(token)
        assert (code, host, network) == (0, "0.0.0.0", True) and len(token) >= 20
        assert re.search(rf"http://localhost:\d+/{token}/\n", said)
        address = re.search(rf"http://192.0.2.7:\d+/{token}/", said)[0]
        drawn = io.StringIO()
        segno.make(address, error="m").terminal(out=drawn, border=2, compact=True)
        assert drawn.getvalue() in said  # the QR code
        assert "can read the page, the labels, the manifest and every .tflite file" in said
        assert "Without --https, the network can read the address" in said and "add --https" in said
    assert len(tokens) == 2
    code, said = run(capsys, exported, "--host", "0.0.0.0")
    assert code == 2 and "add --network" in said


def speak(port, said, host="127.0.0.1"):
    """All that comes back for raw bytes, until the server closes."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(said)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def statuses(answer):
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d+)", answer)]


HOST = b"Host: localhost\r\n"
GOOD = b"GET /export/labels.txt HTTP/1.1\r\n" + HOST
SECOND = b"GET /export/manifest.json HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (GOOD + b"Content-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"Content-Length: +0\r\n\r\n", 400),
        (GOOD + b"Content-Length : %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"no header\r\nContent-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"X: a\r\n Content-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"X: a\nContent-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"X: a\rContent-Length: %d\r\n\r\n" % len(SECOND), 400),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SECOND), 400),
        (GOOD + b"transfer-encoding: identity\r\n\r\n", 400),
        (GOOD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", 400),
        (GOOD + b"X: \0\r\n\r\n", 400),
        (GOOD + HOST + b"\r\n", 400),
        (b"GET /export/labels.txt HTTP/1.1\r\n\r\n", 400),
        (b"GET http://localhost/export/labels.txt HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /export/labels.txt HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /export/labels.txt\r\n\r\n", 400),
        (b"POST /export/labels.txt HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n", 405),
        (b"OPTIONS / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"CONNECT localhost:1 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (GOOD + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (GOOD + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"a" * 40_000, 431),
    ],
)
def test_what_two_could_read_in_two_ways_ends_the_connection(exported, serve, said, status):
    answer = speak(urlsplit(serve(exported)).port, said + SECOND)
    assert statuses(answer) == [status] and b"quince" not in answer and b"artifacts" not in answer


def test_requests_of_one_connection_are_answered_in_turn(exported, serve):
    port = urlsplit(serve(exported)).port
    last = GOOD + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    answer = speak(port, GOOD + b"\r\n" + b"HEAD" + SECOND[3:] + GOOD.replace(b"labels", b"none") + b"\r\n")
    assert statuses(answer) == [200, 200, 404] and b"artifacts" not in answer
    answer = speak(port, SECOND + last)
    assert statuses(answer) == [200, 200] and answer.endswith("cat\n鱼\n".encode())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost@evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("localhost:x", 421),
        ("127.1", 421),
        ("0.0.0.0", 421),
        ("192.0.2.7", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(exported, serve, host, status):
    assert get(serve(exported), "/export/labels.txt", Host=host)[0] == status


def test_with_a_network_this_machines_own_addresses_are_names_and_a_token_opens(exported):
    with demo.make_server(exported, "0.0.0.0", token="s3cret-token", network=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = f"http://127.0.0.2:{server.server_port}"  # as good as one of a network
        assert get(other, "/s3cret-token/export/labels.txt")[::2] == (200, "cat\n鱼\n".encode())
        assert get(other, "/s3cret-token/")[0] == 200
        status, headers, _ = get(other, "/s3cret-token")
        assert (status, headers["Location"]) == (308, "/s3cret-token/")
        for path in (
            "/",
            "/export/labels.txt",
            "/s3cret/",
            "/s3cret-token2/",
            "/S3CRET-token/",
            "/%c3%a9/",
            "/sw.js",
        ):
            status, _, body = get(other, path)
            assert status == 403 and b"s3cret-token" not in body, path
        assert get(other, "/s3cret-token/../secret.txt")[0] == 404
        assert get(other, "/s3cret-token/", Host="evil.example")[0] == 421
        assert get(other, "/s3cret-token/", Host="127.0.0.3")[0] == 421
        server.shutdown()


def test_who_sends_nothing_or_little_does_not_hold_a_place_for_ever(exported, monkeypatch):
    monkeypatch.setattr(demo, "HEAD_SECONDS", 1)
    monkeypatch.setattr(demo, "CONNECTIONS", 3)
    with demo.make_server(exported) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = ("127.0.0.1", server.server_port)
        slow = [socket.create_connection(place, timeout=60) for _ in range(3)]
        with socket.create_connection(place, timeout=60) as fourth:
            assert fourth.recv(1) == b""  # there is no place
        for _ in range(200):
            try:
                for connection in slow:
                    connection.sendall(b"G")  # a byte at a time, which each alone comes in time
            except OSError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("a slow client is never sent away")
        for connection in slow:
            connection.close()
        while server._free._value < 3:
            time.sleep(0.05)
        assert get(f"http://localhost:{server.server_port}", "/")[0] == 200
        server.shutdown()


def test_links_lead_nowhere_else(exported, tmp_path, serve, capsys):
    (tmp_path / "other.tflite").write_text("outside")
    (exported / "inside.tflite").symlink_to("float32.tflite")
    url = serve(exported)
    (exported / "out.tflite").symlink_to("../other.tflite")
    (exported / "labels.txt").unlink()
    (exported / "labels.txt").symlink_to(tmp_path / "secret.txt")
    assert get(url, "/export/inside.tflite")[0] == 200
    for path in ("/export/out.tflite", "/export/labels.txt"):
        status, _, body = get(url, path)
        assert status == 404 and b"outside" not in body
    for words in ((exported,), (exported, "--out", tmp_path / "site")):
        code, said = run(capsys, *words)
        assert code == 2 and "is a link that leads out of" in said and said.count("\n") == 1
    assert not (tmp_path / "site").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="--https needs the program openssl")
def test_https_has_a_certificate_for_the_addresses_it_is_opened_by(exported, tmp_path):
    certificate = local_network.make_certificate(tmp_path, ["localhost", "127.0.0.1"])
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
    site.write_site(exported, tmp_path / "site")
    site.write_site(exported, tmp_path / "site")  # in the place of the former
    files = site.page_files(tmp_path / "site")
    assert {"index.html", "sw.js", "assets/index.js", "export/manifest.json", "export/float32.tflite"} <= set(
        files
    )
    assert files["wasm/litert_wasm_internal.wasm"].read_bytes()[:4] == b"\0asm"
    assert not any(name.endswith(".gz") or "saved_model" in name for name in files)
    page = files["index.html"].read_text(encoding="utf-8")
    served = demo.HEADERS["Content-Security-Policy"]
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)" />', page)[1]
    assert served == f"{policy}; frame-ancestors 'none'"  # which a page cannot say of itself
    assert page.index(policy) < page.index("<script")


def test_the_page_runs_nothing_that_its_policy_does_not_name(exported, serve):
    policy = get(serve(exported), "/")[1]["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "'unsafe-eval'" not in policy
    page = (site.PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\bstyle=|\bon\w+=|https?://", page)
    assert get(serve(exported), "/nothing")[1]["Content-Security-Policy"] == policy
