"""Refusing truncated files, whatever the program has configured in Pillow.

``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` makes Pillow fill missing data with grey and ignore checksums. Training code
sets it, often on import. It is global to the process: resetting it while an image is decoded would affect other
threads. Instead, the value that the program set is replaced once by an object with the same truth value, except that it
is false within `whole_files_only`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import ImageFile

from visionward.errors import ImageError

_REFUSING: ContextVar[bool] = ContextVar("refusing", default=False)


class _ProgramsChoice:
    """The program's value of the flag; false within `whole_files_only`."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value) and not _REFUSING.get()

    def __repr__(self) -> str:
        return repr(self._value)


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Make Pillow refuse truncated files in this thread.

    Raises:
        ImageError: another thread set Pillow's flag meanwhile, so that a truncated file may have been decoded.
    """
    choice: object = ImageFile.LOAD_TRUNCATED_IMAGES
    if choice and not isinstance(choice, _ProgramsChoice):
        ImageFile.LOAD_TRUNCATED_IMAGES = _ProgramsChoice(choice)  # type: ignore[assignment]  # used as a bool
    token = _REFUSING.set(True)
    try:
        yield
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ImageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES was set while the image was being decoded: try again")
    finally:
        _REFUSING.reset(token)
