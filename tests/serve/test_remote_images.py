"""Remote images: a real HTTPS server on loopback, which the downloader is told to take for a public one."""

import base64
import json
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from running_server import RunningServer, WordGuard

from visionward.serve import remote_images
from visionward.serve.api_error import InvalidRequestError
from visionward.serve.remote_images import ImageDownloader, is_public

HOST = "images.example"
IMAGE = base64.b64decode("R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: there is nothing to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2"
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([*command.split(), *subject], cwd=folder, check=True, capture_output=True)
    return folder


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - emptied by each test

    def do_GET(self):
        self.asked.append(f"{self.headers['Host']}{self.path}")
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"https://{HOST}/image.gif")
            self.end_headers()
        elif self.path.startswith("/image.gif"):
            self._send(IMAGE)
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" " * 1024)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" " * 100_000)
                time.sleep(0.05)
        else:
            self.send_error(404)

    def _send(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def downloader(certificate):
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ImageDownloader(
        hosts=(HOST,),
        resolver=lambda *_: ("127.0.0.1",),
        may_connect=lambda _: True,
        context=ssl.create_default_context(cafile=str(certificate / "cert.pem")),
        port=server.server_port,
        timeout_s=1.0,
    )
    server.shutdown()
    server.server_close()


def test_an_image(downloader):
    assert downloader.download(f"https://{HOST}/image.gif?size=1#part", "messages") == IMAGE
    assert downloader.download(f"HTTPS://{HOST.upper()}./image.gif", "messages") == IMAGE
    assert [name.partition("/")[2] for name in Handler.asked] == ["image.gif?size=1", "image.gif"]
    assert all(name.startswith(HOST) for name in Handler.asked)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"https://{HOST}/moved", "status is 302"),
        (f"https://{HOST}/nothing", "status is 404"),
        (f"https://{HOST}/large", "larger than"),
        (f"https://{HOST}/slow", "longer than"),
        (f"https://{HOST}/drip", "longer than"),
        (f"http://{HOST}/image.gif", "must begin with https"),
        (f"https://{HOST}:8443/image.gif", "no port"),
        (f"https://{HOST}@other.example/image.gif", "not one that this server"),
        (f"https://user@{HOST}/image.gif", "no user name"),
        (f"https://{HOST}.evil.example/image.gif", "not one that this server"),
        (f"https://evil.example/{HOST}", "not one that this server"),
        (f"https://{HOST}\\@evil.example/", "not one that this server"),
        ("https://127.0.0.1/image.gif", "not one that this server"),
        (f"https://{HOST}/image gif\r\nX: y", "malformed|failed"),
        (f"https://{HOST}:99999/", "malformed"),
        ("https://[::1/", "malformed"),
    ],
)
def test_what_is_not_downloaded(downloader, monkeypatch, url, why):
    monkeypatch.setattr(remote_images, "MAX_IMAGE_BYTES", 50_000 if "large" in url else 20 * 2**20)
    with pytest.raises(InvalidRequestError, match=why) as caught:
        downloader.download(url, "messages")
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_certificate_of_another_is_refused(downloader):
    strict = ImageDownloader((HOST,), downloader.resolver, downloader.may_connect, port=downloader.port)
    with pytest.raises(InvalidRequestError, match="the download failed"):
        strict.download(f"https://{HOST}/image.gif", "messages")
    assert Handler.asked == []


def test_a_name_with_a_private_address_is_not_connected_to(downloader):
    for addresses in (("127.0.0.1",), ("93.184.216.34", "10.0.0.1"), ()):
        private = ImageDownloader((HOST,), lambda *_, found=addresses: found, port=downloader.port)
        with pytest.raises(InvalidRequestError, match="private address"):
            private.download(f"https://{HOST}/image.gif", "messages")
    assert Handler.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - not bound to
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_addresses(address, public):
    assert is_public(address) == public


def chat(server, url):
    content = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": "guard", "messages": [{"role": "user", "content": content}]}
    status, _, body = server.request("POST", "/v1/chat/completions", asked)
    return status, json.loads(body)


def test_the_server_downloads_nothing_unless_it_is_told(downloader):
    guard = WordGuard()
    with RunningServer(guard) as server:
        status, body = chat(server, f"https://{HOST}/image.gif")
    assert (status, body["error"]["code"]) == (400, "image_host_not_allowed")
    assert (guard.history, Handler.asked) == ([], [])
    with RunningServer(guard, downloader) as server:
        status, body = chat(server, f"https://{HOST}/image.gif")
        assert status == 200
        assert guard.history[0][0].images == (IMAGE,)
        assert server.service._budget.held == 0
        status, body = chat(server, f"https://{HOST}/moved")
        assert (status, body["error"]["code"]) == (400, "invalid_image_url")
        assert server.service._budget.held == 0
