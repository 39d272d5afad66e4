"""A hash of what makes a large file what it is, quick even for many gigabytes, and equal for copies."""

import hashlib
from pathlib import Path

from visionward.errors import ModelFileError
from visionward.formats.regular_file import open_regular

# The header of a GGUF file has its checksums, and the vocabulary comes before them.
_HEAD_BYTES = 32 << 20
_TAIL_BYTES = 1 << 20


def file_hash(path: Path) -> str:
    """SHA-256 of a file's size, its first 32 MiB and its last MiB.

    Raises:
        ModelFileError: if it cannot be read.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return hashlib.sha256(f"{size}\0".encode() + head + file.read()).hexdigest()
    except OSError as cause:
        raise ModelFileError(f"{path}: {cause.strerror or cause}") from cause
