"""The request of ``POST /v1/moderations``."""

from collections.abc import Mapping
from dataclasses import dataclass

from visionward.serve.api_error import InvalidRequestError
from visionward.serve.judged_messages import JudgedMessages, check_count
from visionward.serve.request_fields import Fields
from visionward.serve.request_limits import RequestLimits

DEFAULT_MODEL = "omni-moderation-latest"


@dataclass(frozen=True)
class ModerationRequest:
    """A moderation that was asked for.

    Attributes:
        model: the name that the client used.
        inputs: what is judged, each by itself.
    """

    model: str
    inputs: tuple[JudgedMessages, ...]

    @classmethod
    def read(cls, fields: Fields, limits: RequestLimits) -> "ModerationRequest":
        """Read a request. The input is a text, an array of texts, or an array of text and image parts.

        Raises:
            InvalidRequestError: a parameter is unknown, missing or of another type.
            ApiError: the request is larger than the limits (status 413).
        """
        fields.check_known(("input", "model"))
        found = fields.get("input")
        if found is None:
            raise InvalidRequestError("the parameter 'input' is missing.", "input", "missing_required_parameter")
        entries = [found] if isinstance(found, str) else found
        if not isinstance(entries, list):
            raise fields.wrong_type("input", "a string or an array")
        if not entries:
            raise InvalidRequestError("'input' is empty, expected at least one entry.", "input", "empty_array")
        check_count(len(entries), limits.max_messages, "inputs", "input")
        return cls(fields.text("model") or DEFAULT_MODEL, tuple(_inputs(entries, limits)))


def _inputs(entries: list[object], limits: RequestLimits) -> list[JudgedMessages]:
    """Texts are judged one by one, parts together: OpenAI's API gives one result for all of them."""
    if all(isinstance(entry, str) for entry in entries):
        return [_judged([{"type": "text", "text": entry}], limits) for entry in entries]
    if all(isinstance(entry, Mapping) for entry in entries):
        return [_judged(entries, limits)]
    raise InvalidRequestError("'input' is an array of neither strings nor text and image parts.", "input")


def _judged(parts: list[object], limits: RequestLimits) -> JudgedMessages:
    return JudgedMessages.read([{"role": "user", "content": parts}], "input", limits)
