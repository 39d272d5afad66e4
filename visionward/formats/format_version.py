"""Format versions: a file of another version is refused, with what to do."""

from pathlib import Path
from typing import TypeVar

from visionward.errors import VisionwardError

_Error = TypeVar("_Error", bound=VisionwardError)


def check_format_version(path: str | Path, found: object, current: int, error: type[_Error], remedy: str) -> None:
    """Check that a file has the version that this visionward reads.

    Args:
        path: the file.
        found: the version in it.
        current: the version that is read.
        error: the exception class to raise.
        remedy: what to do about an older version.

    Raises:
        error: if it is another version.
    """
    if found == current and not isinstance(found, bool):
        return
    is_newer = isinstance(found, int) and found > current
    advice = "it was written by a newer visionward, so update visionward" if is_newer else remedy
    raise error(f"{path} has format version {found}, expected {current}: {advice}.")
