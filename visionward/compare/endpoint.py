"""Judging samples through an OpenAI-compatible chat API."""

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visionward.compare.endpoint_prompt import first_word_score, messages, read_answer
from visionward.compare.journal import Journal, Judged
from visionward.compare.models import Endpoint
from visionward.compare.sample_progress import sample_progress
from visionward.compare.settings import EndpointSettings
from visionward.errors import ComputeError, DataError, VisionwardError
from visionward.machine.extras import require
from visionward.progress import OnProgress
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.samples import Sample

KEY_VARIABLE = "VISIONWARD_ENDPOINT_KEY"
# After this many samples in a row without an answer the endpoint is given up; a later run resumes there.
MAX_FAILURES = 5
_ANSWER_TOKENS = 60
_REFUSALS_OF_ALL = (401, 403, 404)

logger = logging.getLogger(__name__)


def endpoint_key(endpoint: Endpoint) -> str:
    """The key from the environment: ``<NAME>_API_KEY``, or a common one. Local servers need none."""
    own = re.sub(r"[^A-Z0-9]+", "_", endpoint.name.upper()) + "_API_KEY"
    return os.environ.get(own) or os.environ.get(KEY_VARIABLE) or "none"


def judge_with_endpoint(
    endpoint: Endpoint,
    samples: Mapping[str, Sample],
    policy: Policy,
    threshold: float,
    settings: EndpointSettings,
    journal: Journal,
    on_progress: OnProgress | None = None,
) -> str | None:
    """Judge the samples that the journal lacks.

    Returns:
        Why the endpoint was given up; None if every sample was judged or skipped.

    Raises:
        DataError: if the policy is not the default one and the endpoint is a guard, which has a policy of its own.
    """
    check_endpoint(endpoint, policy)
    done = sum(digest in journal.judged for digest in samples)
    progress = sample_progress(on_progress, endpoint.name, done, len(samples))
    client = _Client(endpoint, policy, threshold, settings)
    failures, last = 0, ""
    try:
        for digest, sample in samples.items():
            if digest in journal.judged:
                continue
            try:
                journal.append(client.judge(digest, sample))
            except _RefusesAllError as error:
                return str(error)
            except ComputeError as error:
                failures, last = failures + 1, str(error)
                logger.warning("%s: %s: %s", endpoint.name, sample.id, error)
                if failures >= MAX_FAILURES:
                    return f"{last} ({failures} samples in a row)"
                continue
            failures = 0
            progress.advance(1)
    finally:
        client.close()
    missing = sum(digest not in journal.judged for digest in samples)
    return f"{missing} samples got no answer, the last because: {last}; run again to ask for them" if missing else None


def check_endpoint(endpoint: Endpoint, policy: Policy) -> None:
    """Check that an endpoint can be asked with this policy.

    Raises:
        DataError: if the policy is not the default one and the endpoint is a guard, which has a policy of its own.
    """
    if endpoint.style == "guard" and not policy.is_default:
        raise DataError(f"{endpoint.name} is a guard with its own policy; for other categories use the style zero-shot")


class _RefusesAllError(ComputeError):
    """The endpoint refuses all samples."""


@dataclass
class _Client:
    endpoint: Endpoint
    policy: Policy
    threshold: float
    settings: EndpointSettings
    _options: dict[str, Any] = field(
        default_factory=lambda: {"max_tokens": _ANSWER_TOKENS, "temperature": 0.0, "logprobs": True, "top_logprobs": 5}
    )
    _next: float = 0.0

    def __post_init__(self) -> None:
        openai = require("openai")
        self._openai = openai
        self._api = openai.OpenAI(
            base_url=self.endpoint.url,
            api_key=endpoint_key(self.endpoint),
            timeout=self.settings.timeout_s,
            max_retries=self.settings.retries,
        )

    def close(self) -> None:
        self._api.close()

    def judge(self, digest: str, sample: Sample) -> Judged:
        """One sample.

        Raises:
            _RefusesAllError: if the endpoint refuses all samples.
            ComputeError: if this one gets no answer.
        """
        try:
            asked = messages(sample.conversation, self.policy, self.endpoint.style)
        except VisionwardError as error:
            return Judged(digest, reason=str(error))
        self._wait()
        started = time.perf_counter()
        completion = self._complete(asked)
        times = {"total": (time.perf_counter() - started) * 1000}
        choice = None if completion is None or not completion.choices else completion.choices[0]
        # A refusal of the API is no answer, and no answer is never safe.
        text = (choice.message.content or "") if choice is not None else ""
        answer = read_answer(text, self.policy)
        if not answer.understood:
            return Judged(digest, unsafe=True, score=1.0, no_answer=True, times_ms=times)
        scored = first_word_score(_alternatives(choice))
        score, mass = scored if scored is not None else (float(answer.unsafe), None)
        unsafe = answer.unsafe if scored is None else score >= self.threshold
        return Judged(
            digest,
            unsafe=unsafe,
            score=score,
            answer_mass=mass,
            categories=answer.categories if unsafe else (),
            times_ms=times,
        )

    def _wait(self) -> None:
        if self.settings.requests_per_minute is not None:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + 60 / self.settings.requests_per_minute

    def _complete(self, asked: list[dict[str, Any]]) -> Any:
        """The completion; None if the API refuses this sample."""
        openai = self._openai
        while True:
            try:
                return self._api.chat.completions.create(model=self.endpoint.model, messages=asked, **self._options)
            except openai.BadRequestError as error:
                if not self._drop_option(str(error)):
                    return None
            except openai.APIStatusError as error:
                reason = f"HTTP {error.status_code}: {_one_line(error.message)}"
                raise (_RefusesAllError if error.status_code in _REFUSALS_OF_ALL else ComputeError)(reason) from error
            except openai.OpenAIError as error:
                raise ComputeError(_one_line(str(error))) from error

    def _drop_option(self, message: str) -> bool:
        """Drop an option that this API does not know. Returns whether the message names one."""
        lowered = message.lower()
        if "max_completion_tokens" in lowered and "max_tokens" in self._options:
            self._options["max_completion_tokens"] = self._options.pop("max_tokens")
            return True
        for names in (("top_logprobs", "logprobs"), ("logprobs", "top_logprobs"), ("temperature",)):
            if names[0] in self._options and names[0] in lowered:
                for name in names:
                    self._options.pop(name, None)
                return True
        return False


def _alternatives(choice: Any) -> list[list[tuple[str, float]]]:
    content = getattr(getattr(choice, "logprobs", None), "content", None) or []
    return [
        [(token.token, token.logprob), *((other.token, other.logprob) for other in token.top_logprobs or [])]
        for token in content
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
