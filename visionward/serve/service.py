"""What the server does with a request: from its body to an answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from visionward.errors import VisionwardError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.verdict import Verdict
from visionward.serve.api_error import as_api_error
from visionward.serve.byte_budget import ByteBudget
from visionward.serve.chat_request import ChatRequest
from visionward.serve.chat_response import ChatResponse
from visionward.serve.client_connection import while_connected
from visionward.serve.json_response import AsciiJsonResponse
from visionward.serve.judged_messages import JudgedMessages
from visionward.serve.metrics import Metrics
from visionward.serve.moderation_request import ModerationRequest
from visionward.serve.moderation_response import Moderated, moderation_response
from visionward.serve.remote_images import MAX_IMAGE_BYTES, ImageDownloader
from visionward.serve.request_body import request_body
from visionward.serve.request_fields import Fields
from visionward.serve.request_limits import RequestLimits
from visionward.serve.request_queue import RequestQueue
from visionward.serve.request_record import RequestRecord
from visionward.serve.server_settings import ServerSettings

# Reading a larger body would keep the event loop from other requests.
_READ_AT_ONCE_BYTES = 128 * 1024

# Downloads at one time.
MAX_DOWNLOADS = 8

Read = TypeVar("Read", ChatRequest, ModerationRequest)
T = TypeVar("T")


class AsyncGuard(Protocol):
    """What the server needs of a guard: ``Guard`` and ``GuardProcess`` have it."""

    @property
    def is_available(self) -> bool:
        """Whether calls are served."""

    async def aclassify(
        self,
        conversation: Conversation,
        *,
        policy: Policy,
        threshold: float,
        category_scores: bool,
        allow_files: bool,
    ) -> Verdict:
        """Judge the last message of a conversation; cancelling the task ends the computation."""


class Service:
    """Answers requests with one guard.

    Args:
        guard: judges.
        settings: how to answer.
        downloader: gets remote images; None for one that asks the allowed hosts.
    """

    def __init__(self, guard: AsyncGuard, settings: ServerSettings, downloader: ImageDownloader | None = None) -> None:
        self.settings = settings
        self.queue = RequestQueue(settings.max_waiting)
        self._guard = guard
        self._budget = ByteBudget(settings.max_held_bytes)
        self.metrics = Metrics(self.queue, self._budget)
        self._downloader = downloader or ImageDownloader(settings.image_hosts)
        # Threads of their own: slow hosts must not keep large requests from being read.
        self._downloads = ThreadPoolExecutor(MAX_DOWNLOADS, thread_name_prefix="visionward-download")

    @property
    def status(self) -> str:
        """``ready`` while requests are served, else why they are not."""
        if self.queue.closed:
            return "shutting down"
        return "ready" if self._guard.is_available else "the guard does not start"

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        self.queue.check_room()
        limits = self.settings.limits
        async with request_body(request, limits.max_body_bytes, self._budget) as body:
            large = len(body) > _READ_AT_ONCE_BYTES
            asked = await _in_thread(large, partial(_read, ChatRequest, body, limits))
            self.settings.models.check(asked.model)
            record = RequestRecord.of(request.scope)
            done = await while_connected(request, self._judge_alone(asked, large, record))
        response = ChatResponse(asked, done.verdict, done.queue_ms)
        if asked.stream:
            # The verdict is known before the first byte, so that an error is a status and not an event.
            events = b"".join(response.events())
            return Response(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return AsciiJsonResponse(response.to_dict())

    async def moderations(self, request: Request) -> Response:
        """``POST /v1/moderations``."""
        self.queue.check_room()
        limits, settings = self.settings.limits, self.settings
        async with request_body(request, limits.max_body_bytes, self._budget) as body:
            large = len(body) > _READ_AT_ONCE_BYTES
            asked = await _in_thread(large, partial(_read, ModerationRequest, body, limits))
            settings.models.check_moderation(asked.model)
            record = RequestRecord.of(request.scope)
            moderated = await while_connected(request, self._judge_all(asked, large, record))
        return AsciiJsonResponse(moderation_response(settings.models.name, moderated, settings.policy))

    async def _judge_alone(self, asked: ChatRequest, large: bool, record: RequestRecord) -> Moderated:
        conversation = await self._conversation(asked.judged, large)
        async with self.queue.turn() as queue_ms:
            return await self._judge(conversation, "messages", asked.category_scores, queue_ms, record)

    async def _judge_all(self, asked: ModerationRequest, large: bool, record: RequestRecord) -> list[Moderated]:
        conversations = [await self._conversation(judged, large) for judged in asked.inputs]
        async with self.queue.turn() as queue_ms:
            return [await self._judge(conversation, "input", True, queue_ms, record) for conversation in conversations]

    async def _judge(
        self, conversation: Conversation, param: str, category_scores: bool, queue_ms: float, record: RequestRecord
    ) -> Moderated:
        try:
            verdict = await self._guard.aclassify(
                conversation,
                policy=self.settings.policy,
                threshold=self.settings.threshold,
                category_scores=category_scores,
                allow_files=False,
            )
        except VisionwardError as error:
            if as_api_error(error).status >= 500:
                record.failure = error
            raise as_api_error(error, param) from error
        warnings = tuple(dict.fromkeys((*conversation.warnings, *verdict.warnings)))
        verdict = replace(verdict, warnings=warnings)
        record.verdicts.append(verdict)
        record.queue_ms = queue_ms
        return Moderated(conversation, verdict, queue_ms)

    async def _conversation(self, judged: JudgedMessages, large: bool) -> Conversation:
        """The conversation, with its remote images."""
        urls = judged.remote_urls
        held = len(urls) * MAX_IMAGE_BYTES if self._downloader.hosts else 0
        self._budget.take(held)
        try:
            loop = asyncio.get_running_loop()
            downloaded = {
                url: await loop.run_in_executor(self._downloads, self._downloader.download, url, judged.param)
                for url in urls
            }
            return await _in_thread(large, partial(judged.conversation, downloaded))
        except VisionwardError as error:
            raise as_api_error(error, judged.param) from error
        finally:
            self._budget.give_back(held)


def _read(kind: type[Read], body: bytes, limits: RequestLimits) -> Read:
    return kind.read(Fields.parse(body), limits)


async def _in_thread(wanted: bool, work: Callable[[], T]) -> T:
    """Do something here, or in a thread."""
    return await asyncio.to_thread(work) if wanted else work()
