"""What keys a file of a pair must have, and the check that it has them and no others.

A key that nobody reads may be one whose name is damaged, and whoever reads the file then takes a default for it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader

# Takes a value as it stands in the file, and raises TypeError or ValueError on any that cannot be.
Kind = Callable[[Any], Any]

# What only says where a file comes from.
_DESCRIPTIVE = ("general.", "quantize.imatrix.")


def read_keys(file: GgufHeader, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> dict[str, Any]:
    """The values of all keys that a file must and may have; None for one that it may have and has not.

    Raises:
        ModelFileError: if a key is missing, unknown, or its value cannot be.
    """
    for key in file.keys:
        if key not in required and key not in optional and not key.startswith(_DESCRIPTIVE):
            raise ModelFileError(f"{file.path} has a key {key[:80]!r} that nobody reads: convert it again.")
    values = {key: file.get(key, kind) for key, kind in required.items()}
    return values | {key: file.get(key, kind) if file.has(key) else None for key, kind in optional.items()}
