"""Errors as OpenAI's API reports them: an HTTP status, and an object with message, type, param and code."""

from typing import Any

from visionward.errors import (
    ClassificationCancelledError,
    ContextLengthError,
    ConversationError,
    ImageError,
    VisionwardError,
)

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(VisionwardError):
    """A request that gets no verdict.

    Args:
        status: the HTTP status, 400 or higher.
        message: one sentence for the client.
        param: the part of the request that is wrong.
        code: a word for programs.
        retry_after_s: seconds after which another try makes sense; None if that is not known.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that belong to it."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def to_dict(self) -> dict[str, Any]:
        """The body of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequestError(ApiError):
    """The request is wrong: status 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


# What is wrong with a request is told in full. Anything else may name files of the server.
_TOLD: tuple[tuple[type[VisionwardError], str | None], ...] = (
    (ContextLengthError, "context_length_exceeded"),
    (ImageError, "invalid_image"),
    (ConversationError, None),
)


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """What the client is told about an exception.

    Args:
        error: what a classification raised.
        param: the part of the request that was classified.
    """
    if isinstance(error, ApiError):
        return error
    for kind, code in _TOLD:
        if isinstance(error, kind):
            return InvalidRequestError(str(error), param, code)
    if isinstance(error, ClassificationCancelledError):
        return ApiError(503, "the classification was cancelled before there was a verdict.", code="cancelled")
    code = "classification_failed" if isinstance(error, VisionwardError) else "internal_error"
    return ApiError(
        500, "the classification failed and there is no verdict; the server's log has the cause.", code=code
    )
