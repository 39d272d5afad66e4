"""Refusing files that are cut short, whatever the program around has told Pillow.

``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` makes Pillow fill what is missing with grey and skip checksums; training code
sets it, often at import. It is a global of the whole process, so that setting it back while an image is decoded would
change what other threads decode. Instead the value that the program set is replaced, once, by one that is true or false
as the program said, and false for whoever decodes inside `whole_files_only`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import ImageFile

from visionward.errors import ImageError

_REFUSING: ContextVar[bool] = ContextVar("refusing", default=False)


class _ProgramsChoice:
    def __init__(self, value: object) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value) and not _REFUSING.get()

    def __repr__(self) -> str:
        return repr(self._value)


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Inside, Pillow refuses files that are cut short. Holds for this thread alone.

    Raises:
        ImageError: another thread set Pillow's flag meanwhile, so that what was decoded may be cut short.
    """
    choice: object = ImageFile.LOAD_TRUNCATED_IMAGES
    if choice and not isinstance(choice, _ProgramsChoice):
        ImageFile.LOAD_TRUNCATED_IMAGES = _ProgramsChoice(choice)  # type: ignore[assignment]  # Pillow asks its truth
    token = _REFUSING.set(True)
    try:
        yield
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ImageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES was set while the image was decoded: try again")
    finally:
        _REFUSING.reset(token)
