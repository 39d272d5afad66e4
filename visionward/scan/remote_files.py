"""Images in object storage, named by URIs. Credentials come from the environment, never from a URI."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from visionward.errors import DataError
from visionward.machine.extras import require
from visionward.scan.suffixes import IMAGE_SUFFIXES

# Parameters of a URI that say where the storage is. Others may be credentials, and are refused.
_PARAMETERS = ("endpoint_override", "region", "scheme")
# Here the user of a URI is a container, and not a credential.
_CONTAINER_SCHEMES = ("abfs", "abfss")


def is_uri(name: str) -> bool:
    """Whether a name is a URI, such as ``s3://bucket/image.jpg``."""
    return "://" in name


def images_at(uri: str) -> Iterator[str]:
    """The URIs of the images under a prefix, by their suffixes.

    Raises:
        DataError: if it cannot be read.
    """
    parts = _checked(uri)
    filesystem, root = _call(uri, _filesystem, parts)
    path = root + unquote(parts.path)
    selector = require("pyarrow.fs").FileSelector(path, recursive=True)
    if _call(uri, filesystem.get_file_info, path).is_file:
        yield uri
        return
    for found in sorted(_call(uri, filesystem.get_file_info, selector), key=lambda one: str(one.path)):
        if found.is_file and f".{found.extension.lower()}" in IMAGE_SUFFIXES:
            yield parts._replace(path=quote("/" + found.path[len(root) :].lstrip("/"))).geturl()


def read_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes of an object.

    Raises:
        DataError: if it cannot be read, or is larger. Its cause is FileNotFoundError if there is no such object.
    """
    parts = _checked(uri)
    filesystem, root = _call(uri, _filesystem, parts)

    def read(name: str) -> bytes:
        with filesystem.open_input_stream(name) as stream:
            return bytes(stream.read(max_bytes + 1))

    data: bytes = _call(uri, read, root + unquote(parts.path))
    if len(data) > max_bytes:
        raise DataError(f"{uri} is larger than the maximum of {max_bytes >> 20} MiB")
    return data


def _checked(uri: str) -> SplitResult:
    """The parts of a URI.

    Raises:
        DataError: if it could have credentials in it. The message does not repeat them.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as cause:
        raise DataError("a URI is malformed") from cause
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.password is not None or (parts.username is not None and parts.scheme not in _CONTAINER_SCHEMES):
        raise DataError(f"a URI of {shown} has credentials in it: use the environment")
    if parts.fragment:
        raise DataError(f"a URI of {shown} has the character '#': write %23 in its place")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise DataError(
                f"a URI of {shown} has a parameter other than {', '.join(_PARAMETERS)}: write %3F in place of '?', and "
                "give credentials in the environment"
            )
    return parts


def _filesystem(parts: SplitResult) -> tuple[Any, str]:
    return _opened(parts._replace(path="/").geturl())


# One connection for all images of a bucket.
@lru_cache(maxsize=64)
def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path of its root without a slash at the end."""
    filesystem, root = require("pyarrow.fs").FileSystem.from_uri(uri)
    return filesystem, root.rstrip("/")


def _call(uri: str, function: Any, argument: Any) -> Any:
    pyarrow = require("pyarrow")
    try:
        return function(argument)
    except (OSError, ValueError, pyarrow.ArrowException) as cause:
        # Only the first sentence: the rest may repeat the request with its headers.
        reason = str(cause).splitlines()[0].partition(". Detail")[0]
        raise DataError(f"{uri} cannot be read: {reason}") from cause
