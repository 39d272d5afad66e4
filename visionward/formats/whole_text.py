"""Read whole text files that a user names, up to a maximum size."""

import errno
import io
import os

from visionward.formats.regular_file import open_regular


def read_text(path: str | os.PathLike[str], max_bytes: int, encoding: str = "utf-8") -> str:
    r"""The text of a regular file, its line ends as ``\n``.

    Files in ``/proc`` have size 0, and some have no end, so reading is limited too.

    Raises:
        OSError: if it cannot be opened or read, is not a regular file, or has more than ``max_bytes``.
        ValueError: if it is not text in that encoding, or the name has a NUL character.
    """
    with open_regular(path) as file:
        too_large = os.fstat(file.fileno()).st_size > max_bytes
        # read() returns None for a file that would block, as some in /proc.
        content = b"" if too_large else file.read(max_bytes + 1) or b""
    if too_large or len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than the maximum of {max_bytes >> 20} MiB", os.fspath(path))
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()
