"""The example window's download of model files, from a server on this machine."""

import errno
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from visionward import CancelToken

pytestmark = pytest.mark.desktop

EXAMPLE = Path(__file__).parents[2] / "examples" / "desktop"
CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT as every file; ``cut`` ends an answer early, ``status`` replaces it."""

    def __init__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                start = 0
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                if asked and outer.ranged:
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                rest = outer.files.get(self.path.rpartition("/")[2], outer.content)[start:]
                self.send_response(outer.status or (206 if start else 200))
                self.send_header("Content-Length", str(outer.length or len(rest)))
                self.end_headers()
                if outer.status is None:
                    self.wfile.write(rest[: outer.cut])
                    while outer.hold and not outer.closed:
                        time.sleep(0.01)

            def log_message(self, *_):
                pass

        self.content, self.files, self.ranges = CONTENT, {}, []
        self.ranged, self.hold, self.closed = True, False, False
        self.status = self.cut = self.length = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name="text.gguf"):
        return f"http://127.0.0.1:{self._server.server_port}/files/{name}"

    def close(self):
        self.closed = True
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def downloads():
    sys.path.insert(0, str(EXAMPLE))
    import model_download  # noqa: PLC0415 - a module of the example

    return model_download


@pytest.fixture
def fetch(downloads, server, tmp_path):
    def run(name="text.gguf", sha256=SHA256, cancel=None, report=lambda *_: None):
        source = downloads.Source(server.url(name), sha256)
        return downloads.download(source, tmp_path / "Modelle ö", report, cancel or CancelToken())

    return run


def test_a_file_arrives_whole_and_is_not_asked_for_again(fetch, server, tmp_path):
    reports = []
    path = fetch(report=lambda *numbers: reports.append(numbers))
    assert path == tmp_path / "Modelle ö" / "text.gguf"
    assert path.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert fetch() == path
    assert server.ranges == [None]
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("ranged", [True, False])
def test_an_interrupted_download_goes_on(fetch, downloads, server, tmp_path, ranged):
    server.cut = 300_000
    with pytest.raises(downloads.DownloadError, match=r"^text\.gguf could not be downloaded: the connection failed or"):
        fetch()
    part = tmp_path / "Modelle ö" / "text.gguf.part"
    there = part.stat().st_size
    assert 0 < there <= 300_000
    server.cut, server.ranged = None, ranged
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={there}-"]
    assert not part.exists()


def test_another_file_is_deleted(fetch, downloads, server, tmp_path):
    with pytest.raises(
        downloads.DownloadError, match=r"^text\.gguf has another SHA-256 checksum than the one given, and"
    ):
        fetch(sha256="0" * 64)
    assert [*(tmp_path / "Modelle ö").iterdir()] == []
    server.content = CONTENT + b"more"
    (tmp_path / "Modelle ö" / "text.gguf.part").write_bytes(b"another beginning")
    with pytest.raises(downloads.DownloadError, match="another SHA-256 checksum"):
        fetch()
    server.content = CONTENT
    assert fetch().read_bytes() == CONTENT


def test_a_cancelled_download_keeps_what_arrived(fetch, downloads, server, tmp_path):
    cancel = CancelToken()
    with pytest.raises(downloads.DownloadCancelledError, match=r"^The download was cancelled; the next one goes on"):
        fetch(cancel=cancel, report=lambda *_: cancel.cancel())
    assert 0 < (tmp_path / "Modelle ö" / "text.gguf.part").stat().st_size < len(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert server.ranges[1].startswith("bytes=")


def test_a_disk_without_space(fetch, downloads, server):
    server.length = 10**18
    with pytest.raises(
        downloads.DownloadError, match=r"^The disk has no space for text\.gguf, which has 10+ GB: make sp"
    ):
        fetch()
    server.length = None

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(downloads.DownloadError, match=r"^The disk has no space for text\.gguf after .* kB: make space"):
        fetch(report=full)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "the server answers 404 Not Found"),
        (503, "the server answers 503"),
        (416, "is not the file whose beginning"),
    ],
)
def test_what_servers_refuse(fetch, downloads, server, tmp_path, status, words):
    (tmp_path / "Modelle ö").mkdir()
    (tmp_path / "Modelle ö" / "text.gguf.part").write_bytes(b"begun")
    server.status = status
    with pytest.raises(downloads.DownloadError, match=words) as caught:
        fetch()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sha256", "words"),
    [
        ("", SHA256, "The address is no address of http or https"),
        ("file:///etc/text.gguf", SHA256, "no address of http or https"),
        ("http://127.0.0.1/", SHA256, "does not end with the name of a GGUF file"),
        ("http://127.0.0.1/text.zip?x=.gguf", SHA256, "does not end with the name of a GGUF file"),
        ("http://127.0.0.1/text.gguf", SHA256[1:], "must have 64 hexadecimal digits"),
        ("http://127.0.0.1/text.gguf", "g" * 64, "must have 64 hexadecimal digits"),
        ("http://127.0.0.1:1/text.gguf", SHA256, "the connection failed or was lost"),
    ],
)
def test_what_cannot_be_downloaded(downloads, tmp_path, url, sha256, words):
    with pytest.raises(downloads.DownloadError, match=words):
        downloads.download(downloads.Source(url, sha256), tmp_path, lambda *_: None, CancelToken())


@pytest.mark.parametrize("path", ["..%2f..%2fevil.gguf", "..%5C..%5Cevil.gguf", "evil.gguf?name=../x.gguf"])
def test_a_name_leads_to_no_other_folder(downloads, path):
    assert downloads.Source(f"http://127.0.0.1/{path}", SHA256).name == "evil.gguf"


def test_a_folder_that_cannot_be_made(downloads, server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(downloads.DownloadError, match=r"^text\.gguf could not be stored in .*file.models: "):
        downloads.download(
            downloads.Source(server.url(), SHA256), tmp_path / "file" / "models", lambda *_: None, CancelToken()
        )


@pytest.fixture
def dialog(qt, opened):
    """The dialog as at the first start, with the address of one file in both rows."""
    window = opened()
    qt.QTest.mouseClick(window.welcome.download, qt.Qt.MouseButton.LeftButton)
    return window.download_dialog


def fill(dialog, server, sha256=SHA256):
    for (url, checksum), name in zip(dialog.fields, ("text.gguf", "mmproj.gguf"), strict=True):
        url.setText(server.url(name))
        checksum.setText(sha256)


def click(qt, button):
    qt.QTest.mouseClick(button, qt.Qt.MouseButton.LeftButton)


def wait_for(qt, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        qt.QTest.qWait(10)


def test_the_dialog_downloads_a_model_that_is_then_used(qt, home, server, dialog, pair_of):
    pair = pair_of("plain", "f16")
    server.files = {"text.gguf": pair.text.read_bytes(), "mmproj.gguf": pair.mmproj.read_bytes()}
    fill(dialog, server)
    for (_, checksum), content in zip(dialog.fields, server.files.values(), strict=True):
        checksum.setText(hashlib.sha256(content).hexdigest().upper())
    window = dialog.parent()
    click(qt, dialog.start)
    wait_for(qt, lambda: window.model.text() == "text.gguf")
    assert not dialog.isVisible()
    assert (home / "models" / "text.gguf").read_bytes() == server.files["text.gguf"]
    assert json.loads((home / "config" / "desktop.json").read_text())["mmproj"] == str(home / "models" / "mmproj.gguf")


def test_the_dialog_shows_what_went_wrong_and_tries_again(qt, server, dialog):
    click(qt, dialog.start)
    wait_for(qt, dialog.start.isEnabled)
    assert dialog.message.text() == "The address is no address of http or https."
    fill(dialog, server, "0" * 64)
    click(qt, dialog.start)
    wait_for(qt, lambda: "another SHA-256 checksum" in dialog.message.text())
    fill(dialog, server)
    dialog.fields[1][0].setText(server.url("text.gguf"))
    click(qt, dialog.start)
    wait_for(qt, lambda: dialog.message.text() == "Both files are named text.gguf.")
    assert dialog.start.isEnabled()


def test_cancel_ends_the_download_and_then_closes_the_dialog(qt, home, server, dialog):
    server.cut, server.hold = 300_000, True
    fill(dialog, server)
    click(qt, dialog.start)
    wait_for(qt, lambda: dialog.message.text().startswith("text.gguf: "))
    assert dialog.progress.value() > 0
    click(qt, dialog.cancel)
    server.closed = True
    wait_for(qt, dialog.start.isEnabled)
    assert dialog.message.text()
    assert (home / "models" / "text.gguf.part").stat().st_size > 0
    click(qt, dialog.cancel)
    assert not dialog.isVisible()
