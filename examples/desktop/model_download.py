"""Download a model file from an address that the user gives, and compare it with the user's checksum.

A download that was interrupted goes on where it ended. Only a file with the right checksum gets its name.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from visionward import CancelToken, VisionwardError
from visionward.quantities import size_text

_CHUNK = 1 << 16
# Seconds to connect, and without any data.
_TIMEOUTS_S = (15, 60)
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


class DownloadError(VisionwardError):
    """Why there is no file; one sentence for the user."""


class DownloadCancelledError(DownloadError):
    """The user cancelled the download."""


@dataclass(frozen=True)
class Source:
    """Where a file is, and which file it must be.

    Attributes:
        url: an address of http or https that ends with the file's name.
        sha256: the checksum, 64 hexadecimal digits.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(unquote(urlsplit(self.url).path).replace("\\", "/")).name


def check_sources(sources: list[Source]) -> None:
    """Raise DownloadError if what the user gave cannot be downloaded into one folder."""
    for source in sources:
        if urlsplit(source.url).scheme not in {"http", "https"}:
            raise DownloadError(f"{source.url or 'The address'} is no address of http or https.")
        if not source.name.endswith(".gguf") or ":" in source.name:
            raise DownloadError(f"{source.url} does not end with the name of a GGUF file.")
        if len(source.sha256) != 64 or set(source.sha256.lower()) - set("0123456789abcdef"):
            raise DownloadError(f"The SHA-256 checksum of {source.name} must have 64 hexadecimal digits.")
    names = [source.name for source in sources]
    if len({name.casefold() for name in names}) < len(names):
        raise DownloadError(f"Both files are named {names[0]}.")


def download(source: Source, folder: Path, on_progress: Callable[[int, int], None], cancel: CancelToken) -> Path:
    """Download a file into a folder, and return its path. A complete file that is there already is only checked.

    Args:
        source: the file.
        folder: made if it does not exist.
        on_progress: called with the bytes that are there and the size of the file, 0 if unknown.
        cancel: ends the download; what has arrived is kept for the next one.

    Raises:
        DownloadError: with one sentence, for whatever was wrong.
    """
    check_sources([source])
    target = folder / source.name
    part = folder / f"{source.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and _hash_of(target, cancel).hexdigest() == source.sha256.lower():
            return target
        digest = _hash_of(part, cancel) if part.exists() else hashlib.sha256()
        if digest.hexdigest() != source.sha256.lower():
            digest = _receive(source, part, digest, on_progress, cancel)
        if digest.hexdigest() != source.sha256.lower():
            part.unlink()
            raise DownloadError(f"{source.name} has another SHA-256 checksum than the one given, and was deleted.")
        part.replace(target)
    except requests.RequestException as error:
        raise DownloadError(f"{source.name} could not be downloaded: {_reason(error)}.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_is_full(source, part.stat().st_size if part.exists() else 0, 0) from error
        raise DownloadError(f"{source.name} could not be stored in {folder}: {error.strerror or error}.") from error
    return target


def _hash_of(path: Path, cancel: CancelToken) -> "hashlib._Hash":
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            _stop_if(cancel)
            digest.update(chunk)
    return digest


def _receive(
    source: Source, part: Path, digest: "hashlib._Hash", on_progress: Callable[[int, int], None], cancel: CancelToken
) -> "hashlib._Hash":
    """Receive what is missing of a file. Returns the checksum of the whole of it."""
    there = part.stat().st_size if part.exists() else 0
    # Compressed contents have no ranges.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
    with requests.get(source.url, headers=headers, stream=True, timeout=_TIMEOUTS_S) as answer:
        if answer.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise DownloadError(f"{source.name} is not the file whose beginning was downloaded before: try again.")
        answer.raise_for_status()
        if answer.status_code != _PARTIAL_CONTENT:
            there, digest = 0, hashlib.sha256()
        length = int(answer.headers.get("Content-Length", 0))
        size = there + length if length else 0
        if length > shutil.disk_usage(part.parent).free:
            raise _disk_is_full(source, there, size)
        with part.open("ab" if there else "wb") as file:
            for chunk in answer.iter_content(_CHUNK):
                _stop_if(cancel)
                file.write(chunk)
                digest.update(chunk)
                there += len(chunk)
                on_progress(there, size)
    return digest


def _stop_if(cancel: CancelToken) -> None:
    if cancel.cancelled:
        raise DownloadCancelledError("The download was cancelled; the next one goes on from there.")


def _disk_is_full(source: Source, there: int, size: int) -> DownloadError:
    needed = f", which has {size_text(size)}" if size else f" after {size_text(there)}"
    return DownloadError(f"The disk has no space for {source.name}{needed}: make space, and download again to go on.")


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not valid"
    return "the connection failed or was lost"
