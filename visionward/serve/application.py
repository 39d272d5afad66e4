"""The web application: routes, keys, and errors in OpenAI's shape."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from visionward.serve.api_error import ApiError, as_api_error
from visionward.serve.client_connection import ClientGoneError
from visionward.serve.json_log import JsonLog
from visionward.serve.json_response import AsciiJsonResponse
from visionward.serve.request_record import STATUS_CLIENT_GONE, Recorded, RequestRecord
from visionward.serve.service import Service
from visionward.serve.web_page import page_routes

Handler = Callable[[Request], Awaitable[Response]]


def application(service: Service, log: JsonLog) -> ASGIApp:
    """The application of a service.

    Args:
        service: answers.
        log: gets a line for every request.
    """

    async def models(_: Request) -> Response:
        return AsciiJsonResponse(service.settings.model_list())

    async def model(request: Request) -> Response:
        return AsciiJsonResponse(service.settings.model_entry(request.path_params["model"]))

    async def health(_: Request) -> Response:
        return AsciiJsonResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        status = service.status
        return AsciiJsonResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    def with_key(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if service.settings.keys is not None:
                service.settings.keys.check(request.headers.get("authorization"))
            return await handler(request)

        return _answered(checked)

    routes = [
        Route("/v1/chat/completions", with_key(service.chat), methods=["POST"]),
        Route("/v1/moderations", with_key(service.moderations), methods=["POST"]),
        Route("/v1/models", with_key(models), methods=["GET"]),
        Route("/v1/models/{model:path}", with_key(model), methods=["GET"]),
        Route("/healthz", _answered(health), methods=["GET"]),
        Route("/readyz", _answered(ready), methods=["GET"]),
        Route("/metrics", _answered(metrics), methods=["GET"]),
        *page_routes(),
    ]
    inside = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    # A redirect would be no error in OpenAI's shape, and would name the host that the client has named.
    inside.router.redirect_slashes = False
    return Recorded(inside, log, service.metrics)


def _answered(handler: Handler) -> Handler:
    """A handler whose exceptions are answers. None of them is a verdict."""

    async def answer(request: Request) -> Response:
        record = RequestRecord.of(request.scope)
        try:
            return await handler(request)
        except ClientGoneError:
            return Response(status_code=STATUS_CLIENT_GONE)
        except Exception as error:  # noqa: BLE001 - whatever happened, the client gets an error
            if not isinstance(error, ApiError):
                record.failure = error
            return _error_response(as_api_error(error), record)

    return answer


async def _no_route(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        found = ApiError(405, "this URL does not take this method.", code="method_not_allowed")
    else:
        found = ApiError(error.status_code, "there is nothing at this URL.", code="unknown_url")
    response = _error_response(found, RequestRecord.of(request.scope))
    response.headers.update(error.headers or {})
    return response


def _error_response(error: ApiError, record: RequestRecord) -> Response:
    record.code = error.code or error.type
    return AsciiJsonResponse(error.to_dict(), error.status, headers=error.headers)
