"""Reading whole text files that somebody names, up to a bound: what is too large is not read into memory first."""

import errno
import io
import os

from visionward.formats.regular_file import open_regular


def read_text(path: str | os.PathLike[str], most_bytes: int, encoding: str = "utf-8") -> str:
    r"""The text of a regular file, its line ends as ``\n``.

    Files of ``/proc`` say that they have no bytes, and some have no end, so the reading is bounded, too.

    Raises:
        OSError: it cannot be opened or read, is no regular file, or has more than ``most_bytes``.
        ValueError: it is not text in that encoding, or the name holds a NUL character.
    """
    with open_regular(path) as file:
        too_large = os.fstat(file.fileno()).st_size > most_bytes
        # None is what a file gives that would block, as some of /proc do.
        content = b"" if too_large else file.read(most_bytes + 1) or b""
    if too_large or len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes >> 20} MiB, the most that is read", os.fspath(path))
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()
