"""Images in object storage, named by URIs. Credentials come from the environment, never from a URI."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from visionward.errors import DataError
from visionward.machine.extras import require
from visionward.scan.suffixes import IMAGE_SUFFIXES


def is_uri(name: str) -> bool:
    """Whether a name is a URI, such as ``s3://bucket/image.jpg``."""
    return "://" in name


def images_at(uri: str) -> Iterator[str]:
    """The URIs of the images under a prefix, by their suffixes.

    Raises:
        DataError: if it cannot be read.
    """
    filesystem, path = _opened(uri)
    selector = require("pyarrow.fs").FileSelector(path, recursive=True)
    if _call(uri, filesystem.get_file_info, path).is_file:
        yield uri
        return
    start = f"{urlsplit(uri).scheme}://"
    for found in sorted(_call(uri, filesystem.get_file_info, selector), key=lambda one: str(one.path)):
        if found.is_file and f".{found.extension.lower()}" in IMAGE_SUFFIXES:
            yield f"{start}{found.path}"


def read_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes of an object.

    Raises:
        DataError: if it cannot be read, or is larger.
    """
    filesystem, path = _opened(uri)

    def read(name: str) -> bytes:
        with filesystem.open_input_stream(name) as stream:
            return bytes(stream.read(max_bytes + 1))

    data: bytes = _call(uri, read, path)
    if len(data) > max_bytes:
        raise DataError(f"{uri} is larger than the maximum of {max_bytes >> 20} MiB")
    return data


def _opened(uri: str) -> tuple[Any, str]:
    if urlsplit(uri).username is not None:
        raise DataError(f"the URI of {urlsplit(uri).hostname} has credentials in it: use the environment")
    filesystem, path = _call(uri, require("pyarrow.fs").FileSystem.from_uri, uri)
    return filesystem, path


def _call(uri: str, function: Any, argument: Any) -> Any:
    pyarrow = require("pyarrow")
    try:
        return function(argument)
    except (OSError, ValueError, pyarrow.ArrowException) as cause:
        # Only the first sentence: the rest may repeat the request with its headers.
        reason = str(cause).splitlines()[0].partition(". Detail")[0]
        raise DataError(f"{uri} cannot be read: {reason}") from cause
