"""Reading the fields of a request's JSON object: a value of another type is an error that names the field."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from visionward.formats.strict_json import parse_json
from visionward.serve.api_error import ApiError, InvalidRequestError

# A conversation that fits into the context has far fewer.
MAX_VALUES = 200_000


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object. A field that is null counts as absent, as in OpenAI's API.

    Attributes:
        values: the object.
        prefix: the path to the object in the request, with a dot at its end; empty for the request itself.
    """

    values: Mapping[str, object]
    prefix: str = ""

    @classmethod
    def parse(cls, body: bytes) -> "Fields":
        """The fields of a request body.

        Raises:
            InvalidRequestError: the body is no JSON object in UTF-8.
            ApiError: it has too many values (status 413). Commas and brackets inside texts count, too.
        """
        # A value takes some 60 bytes of memory, and as few as three of the body.
        if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise ApiError(413, f"the body has more than {MAX_VALUES:,} values.", code="request_too_large")
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as cause:
            raise InvalidRequestError(f"the body is not UTF-8 text (byte {cause.start}).") from cause
        try:
            value = parse_json(text, InvalidRequestError)
        except InvalidRequestError as cause:
            raise InvalidRequestError(f"the body cannot be read: {cause}.") from cause
        if not isinstance(value, dict):
            raise InvalidRequestError(f"the body is {_json_type(value)}, expected an object.")
        return cls(value)

    def check_known(self, known: Collection[str]) -> None:
        """Check that there are no other fields.

        Raises:
            InvalidRequestError: there is one. OpenAI's API refuses it too.
        """
        for name in self.values:
            if name not in known:
                shown = name if len(name) <= 60 else name[:57] + "..."
                raise InvalidRequestError(
                    f"unknown parameter {self.prefix + shown!r}.", self.prefix + shown, "unknown_parameter"
                )

    def get(self, name: str) -> object:
        """The value of a field; None if it is absent."""
        return self.values.get(name)

    def boolean(self, name: str) -> bool:
        """A boolean; False if it is absent."""
        value = self.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong_type(name, "a boolean")
        return value

    def integer(self, name: str, minimum: int, maximum: int) -> int | None:
        """An integer within a range; None if it is absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong_type(name, "an integer")
        if not minimum <= value <= maximum:
            raise self.out_of_range(name, minimum, maximum)
        return value

    def number(self, name: str, minimum: float, maximum: float) -> float | None:
        """A number within a range; None if it is absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong_type(name, "a number")
        if not minimum <= value <= maximum:
            raise self.out_of_range(name, minimum, maximum)
        return value

    def text(self, name: str) -> str | None:
        """A string; None if it is absent."""
        value = self.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong_type(name, "a string")

    def object(self, name: str) -> "Fields":
        """An object's fields; none if it is absent."""
        value = self.get(name)
        if value is None:
            return Fields({}, f"{self.prefix}{name}.")
        if not isinstance(value, dict):
            raise self.wrong_type(name, "an object")
        return Fields(value, f"{self.prefix}{name}.")

    def wrong_type(self, name: str, expected: str) -> InvalidRequestError:
        """The error for a value of another type."""
        path = self.prefix + name
        return InvalidRequestError(
            f"{path!r} is {_json_type(self.get(name))}, expected {expected}.", path, "invalid_type"
        )

    def out_of_range(self, name: str, minimum: float, maximum: float) -> InvalidRequestError:
        """The error for a number outside its range."""
        path = self.prefix + name
        return InvalidRequestError(
            f"{path!r} is out of range; it must be between {minimum:g} and {maximum:g}.", path, "value_out_of_range"
        )

    def unsupported(self, name: str, why: str) -> InvalidRequestError:
        """The error for a value that OpenAI's API has and a guard has not."""
        path = self.prefix + name
        return InvalidRequestError(f"{path!r} is not supported: {why}.", path, "unsupported_parameter")


def _json_type(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")
