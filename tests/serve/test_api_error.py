"""Errors in OpenAI's shape, as the official client reads them."""

import pytest

from visionward.errors import (
    ClassificationCancelledError,
    ComputeError,
    ContextLengthError,
    ConversationError,
    ImageError,
)
from visionward.serve.api_error import ApiError, InvalidRequestError, as_api_error
from visionward.serve.model_list import ModelList


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConversationError("message 1: no"), 400, None),
        (ImageError("no image"), 400, "invalid_image"),
        (ContextLengthError("too long"), 400, "context_length_exceeded"),
        (ComputeError("the secret path of a file"), 500, "classification_failed"),
        (ClassificationCancelledError("cancelled"), 503, "cancelled"),
        (RuntimeError("the secret of the message"), 500, "internal_error"),
        (ApiError(429, "full", code="x"), 429, "x"),
    ],
)
def test_what_clients_are_told(error, status, code):
    found = as_api_error(error, "messages")
    assert (found.status, found.code) == (status, code)
    body = found.to_dict()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert "secret" not in body["message"]
    assert body["type"] == ("invalid_request_error" if status == 400 else body["type"])


def test_headers():
    assert ApiError(429, "full", retry_after_s=3).headers == {"Retry-After": "3"}
    assert ApiError(401, "no key").headers == {"WWW-Authenticate": "Bearer"}
    assert InvalidRequestError("no").headers == {}


def test_models():
    models = ModelList("guard", ("meta-llama/Guard", "guard"), created=5)
    assert [models.entry(name)["id"] for name in models.names] == ["guard", "meta-llama/Guard"]
    models.check("meta-llama/Guard")
    models.check_moderation("omni-moderation-latest")
    for check in (models.check, models.check_moderation, models.entry):
        with pytest.raises(ApiError, match=r"'gpt' does not exist here; choose guard or meta-llama/Guard") as caught:
            check("gpt")
        assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
