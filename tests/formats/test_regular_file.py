"""Regular files only: what could hang or have no end is not opened."""

import os
import socket
import sys
import threading

import pytest

from visionward.errors import ImageError
from visionward.formats.regular_file import open_regular
from visionward.runtime.images.images import decode_image

posix = pytest.mark.skipif(sys.platform == "win32", reason="FIFOs, sockets and devices with names in the file system")


def within(seconds, function, *arguments):
    """What a call gave or raised; fails if it does not come back."""
    found = []

    def call():
        try:
            found.append(function(*arguments))
        except (OSError, ImageError) as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


def test_a_regular_file_and_a_link_to_it(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"a\r\nb\x1a")
    link.symlink_to(path)
    for name in (path, link, str(path)):
        with open_regular(name) as stream:
            assert stream.read() == b"a\r\nb\x1a"
            assert not os.get_inheritable(stream.fileno())


def special_files(folder):
    fifo, address, link = folder / "fifo", folder / "socket", folder / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
    return [fifo, address, link, "/dev/zero", "/dev/null"]


@posix
def test_what_is_no_regular_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    for path in special_files(tmp_path.relative_to(tmp_path)):
        error = within(5, open_regular, path)
        assert isinstance(error, OSError)
        assert error.strerror == "not a regular file"
    assert isinstance(within(5, open_regular, tmp_path), IsADirectoryError)
    assert isinstance(within(5, open_regular, tmp_path / "missing"), FileNotFoundError)


@posix
def test_a_file_that_turns_into_a_fifo(tmp_path, monkeypatch):
    regular, fifo = tmp_path / "regular", tmp_path / "fifo"
    regular.touch()
    os.mkfifo(fifo)
    monkeypatch.setattr(os, "stat", lambda _: os.lstat(regular))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112, PTH208
    assert within(5, open_regular, fifo).strerror == "not a regular file"
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@posix
def test_images_that_are_no_regular_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in special_files(tmp_path.relative_to(tmp_path)):
        error = within(5, decode_image, path)
        assert isinstance(error, ImageError)
        assert str(error) == f"{path}: not a regular file"
