"""The ``serve`` command."""

import contextlib
import ipaddress
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visionward.cli.byte_count import byte_count
from visionward.cli.command import Command
from visionward.cli.model_options import (
    EXISTING_FILE,
    demo_option,
    engine_options,
    pair_options,
    resolve_pair,
)
from visionward.cli.progress import progress_line
from visionward.cli.verdict_options import chosen_policy, verdict_options
from visionward.cli.wrapping import echo_lines
from visionward.machine.extras import require
from visionward.serve.request_limits import DEFAULT_MAX_WAITING, RequestLimits

if TYPE_CHECKING:
    from visionward.serve.api_keys import ApiKeys

_DETAILS = """\
What the server answers: POST /v1/chat/completions, POST /v1/moderations, GET /v1/models, GET /healthz, GET /readyz,
GET /metrics (Prometheus), and GET /, a page to try it with. docs/serving.md describes them.

Standard output gets one JSON line for each request, without any content of conversations. SIGTERM and Ctrl-C finish
the request that is computed, and refuse those that wait; then the exit code is 0.
"""

_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
_MAX_ALIAS_LENGTH = 200


def _host_names(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value.lower().rstrip(".") for value in values)
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not a host name such as images.example.com.")
    return names


def _aliases(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.strip() or not value.isprintable() or len(value) > _MAX_ALIAS_LENGTH:
            raise click.BadParameter(f"an alias has 1 to {_MAX_ALIAS_LENGTH} printable characters.")
    return values


@click.command(cls=Command, epilog=_DETAILS)
@pair_options
@demo_option
@click.option("--host", metavar="NAME", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen at; 0 for any that is free.",
)
@click.option(
    "--api-key-file",
    metavar="FILE",
    type=EXISTING_FILE,
    help="A file with one key per line. Requests to /v1 must have one of them.  [default: no key is needed]",
)
@click.option(
    "--alias",
    metavar="NAME",
    multiple=True,
    callback=_aliases,
    help="A further name of the model, for clients that ask for it; repeatable.",
)
@click.option(
    "--allow-image-host",
    metavar="NAME",
    multiple=True,
    callback=_host_names,
    help="A host whose https:// images are downloaded; repeatable.  [default: nothing is downloaded]",
)
@click.option(
    "--max-waiting",
    metavar="N",
    type=click.IntRange(0, 10000),
    default=DEFAULT_MAX_WAITING,
    show_default=True,
    help="Requests that may wait while one is computed; one more is answered with status 429.",
)
@click.option(
    "--max-body",
    metavar="SIZE",
    default=f"{RequestLimits().max_body_bytes >> 20}MiB",
    show_default=True,
    callback=byte_count,
    help="What the body of a request may have, with its images in base64.",
)
@click.option(
    "--max-messages",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=RequestLimits().max_messages,
    show_default=True,
    help="Messages of a conversation, or inputs of a moderation.",
)
@click.option(
    "--max-images",
    metavar="N",
    type=click.IntRange(0, 1000),
    default=RequestLimits().max_images,
    show_default=True,
    help="Images of a request.",
)
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=click.IntRange(1, 86400),
    default=1800,
    show_default=True,
    help="What a classification may take. After that its process is ended, and the next request starts another one.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.IntRange(0, 86400),
    default=120,
    show_default=True,
    help="What a classification may take after SIGTERM; then it is cancelled.",
)
@verdict_options
@engine_options
def serve(
    model: Path | None,
    mmproj: Path | None,
    demo: bool,
    host: str,
    port: int,
    api_key_file: Path | None,
    alias: tuple[str, ...],
    allow_image_host: tuple[str, ...],
    max_waiting: int,
    max_body: int,
    max_messages: int,
    max_images: int,
    deadline: int,
    grace: int,
    categories: Path | None,
    exclude: list[str],
    threshold: float,
    **engine_options: Any,  # whatever the shared options are, the guard takes them under the same names
) -> None:
    """Serve OpenAI's API.

    It answers as a hosted Llama Guard does: 'safe', or 'unsafe' and a line of category codes. OpenAI clients need
    another base URL, and otherwise no change.

    \b
    Examples:
        visionward serve --demo
        visionward serve --model models --alias meta-llama/Llama-Guard-3-11B-Vision-Turbo
        visionward serve --model models --host 0.0.0.0 --api-key-file keys.txt
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, demo=demo)
    require("starlette", "uvicorn", "prometheus_client")

    from visionward.runtime.process.guard_process import GuardProcess  # noqa: PLC0415 - not needed for --help
    from visionward.serve.api_keys import ApiKeys  # noqa: PLC0415
    from visionward.serve.application import application  # noqa: PLC0415 - needs the extra
    from visionward.serve.json_log import JsonLog  # noqa: PLC0415
    from visionward.serve.model_list import ModelList  # noqa: PLC0415
    from visionward.serve.server import HttpServer, bind  # noqa: PLC0415
    from visionward.serve.server_settings import ServerSettings  # noqa: PLC0415
    from visionward.serve.service import Service  # noqa: PLC0415

    settings = ServerSettings(
        models=ModelList(text_gguf.stem, alias, created=int(time.time())),
        keys=None if api_key_file is None else ApiKeys.from_file(api_key_file),
        limits=RequestLimits(max_body, max_messages, max_images),
        max_waiting=max_waiting,
        image_hosts=allow_image_host,
        policy=chosen_policy(categories, exclude),
        threshold=threshold,
    )
    with contextlib.ExitStack() as stack:
        # A port that is taken is known before the model is loaded.
        bound = stack.enter_context(bind(host, port))
        with progress_line() as on_progress:
            guard = stack.enter_context(
                GuardProcess.load(
                    text_gguf, mmproj_gguf, deadline_s=deadline, on_progress=on_progress, **engine_options
                )
            )
        log = JsonLog(sys.stdout)
        service = Service(guard, settings)
        server = HttpServer(application(service, log), service.queue, log, grace)

        def announce() -> None:
            url = _url(bound)
            log.write("ready", url=f"{url}/v1", model=settings.models.name)
            echo_lines(_greeting(url, settings.models.name, bound, settings.keys), err=True)

        server.serve_until_stopped(bound, announce)


def _url(bound: socket.socket) -> str:
    address, port = bound.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _greeting(url: str, name: str, bound: socket.socket, keys: "ApiKeys | None") -> list[str]:
    lines = [f"{name} is served at {url}/v1; a page to try it is at {url}/", "Ctrl-C stops it."]
    if keys is None and not ipaddress.ip_address(bound.getsockname()[0]).is_loopback:
        lines.insert(1, "Warning: whoever reaches this address can use the server; --api-key-file asks for a key.")
    return lines
