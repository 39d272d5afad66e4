"""Check that a file of a pair has the keys that it must have, and no unknown ones.

An unknown key may be a damaged name. A reader would then use a default in place of its value.
"""

from collections.abc import Callable, Mapping
from typing import Any

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader

# Takes a value as the file has it. Raises TypeError or ValueError if it is not valid.
Converter = Callable[[Any], Any]

# Keys that only describe a file's origin.
_DESCRIPTIVE = ("general.", "quantize.imatrix.")


def read_keys(file: GgufHeader, required: Mapping[str, Converter], optional: Mapping[str, Converter]) -> dict[str, Any]:
    """The values of all required and optional keys; None for an optional key that the file does not have.

    Raises:
        ModelFileError: if a key is missing or unknown, or its value is not valid.
    """
    for key in file.keys:
        if key not in required and key not in optional and not key.startswith(_DESCRIPTIVE):
            raise ModelFileError(f"{file.path} has an unknown key {key[:80]!r}: convert the model again.")
    values = {key: file.get(key, convert) for key, convert in required.items()}
    return values | {key: file.get(key, convert) if file.has(key) else None for key, convert in optional.items()}
