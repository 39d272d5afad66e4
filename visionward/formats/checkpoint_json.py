"""Typed access to the JSON files of a checkpoint. Errors name the file and the setting."""

import json
from pathlib import Path
from typing import Any

from visionward.errors import CheckpointError
from visionward.formats.whole_text import read_text

# tokenizer.json is the largest: 17 MB for Llama 3.
MAX_BYTES = 2**28


class Settings:
    """One JSON object, and its location for error messages.

    Args:
        where: the file, and the path of the object in it.
        values: the object.
    """

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self.where = where
        self._values = values

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read a JSON file.

        Raises:
            CheckpointError: if it is missing, is not a regular file, is larger than ``MAX_BYTES``, or is not a JSON
                object.
        """
        try:
            values = json.loads(read_text(path, MAX_BYTES))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path.parent}: {path.name} is missing") from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{path}: not a readable JSON file: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: not a JSON object")
        return cls(str(path), values)

    @classmethod
    def load_optional(cls, path: Path) -> "Settings":
        """Read a JSON file; an empty object if there is none."""
        return cls.load(path) if path.exists() else cls(str(path), {})

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> Any:
        """The value; None if it is missing."""
        return self._values.get(key)

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error for an unsupported value."""
        found = json.dumps(self._values[key]) if key in self._values else "missing"
        found = found if len(found) <= 120 else found[:117] + "..."
        return CheckpointError(f"{self.where}: {key} is {found}, expected {expected}")

    def section(self, key: str) -> "Settings":
        """A nested object."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Settings(f"{self.where}: {key}", value)

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """An integer, at least ``minimum``."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.wrong(key, f"an integer, at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.wrong(key, "a positive number")
        return float(value)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of integers, not negative."""
        value = self._values.get(key, default)
        if not isinstance(value, list | tuple):
            raise self.wrong(key, "a list of integers")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int) or item < 0:
                raise self.wrong(key, "a list of integers, none negative")
        return tuple(value)

    def require(self, key: str, expected: object, default: object) -> None:
        """Check that a value is the one supported value."""
        value = self._values.get(key, default)
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            raise self.wrong(key, json.dumps(expected))
