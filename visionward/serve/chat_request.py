"""The request of ``POST /v1/chat/completions``."""

from dataclasses import dataclass

from visionward.serve.api_error import InvalidRequestError
from visionward.serve.judged_messages import JudgedMessages
from visionward.serve.request_fields import Fields
from visionward.serve.request_limits import RequestLimits

MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOP_SEQUENCES = 4
_MAX_INTEGER = 2**63 - 1

_READ = frozenset(
    (
        *("messages", "model", "stream", "stream_options", "logprobs", "top_logprobs", "n", "stop", "visionward"),
        *("max_tokens", "max_completion_tokens"),
    )
)
# Sampling cannot change an answer that is read from one distribution: the range is checked, as OpenAI does.
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
# These hold nothing that would have to be judged.
_IGNORED = frozenset(
    (
        *("metadata", "store", "service_tier", "safety_identifier", "reasoning_effort", "verbosity"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "parallel_tool_calls"),
    )
)
# What clients send to say that they do not use it; any other value asks for what a guard does not do.
_UNUSED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
}
_KNOWN = frozenset((*_READ, *_RANGES, *_IGNORED, *_UNUSED, "seed", "user"))


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that was asked for.

    Attributes:
        model: the name that the client used.
        judged: the messages.
        stream: answer as server-sent events.
        include_usage: end the stream with a chunk of token counts.
        logprobs: give the first token's log-probability.
        top_logprobs: alternatives to give with it.
        n: choices, which are all the same.
        max_tokens: tokens that the answer may have; None for no limit.
        stop: texts before which the answer ends.
        category_scores: score the categories of a safe conversation too.
    """

    model: str
    judged: JudgedMessages
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    category_scores: bool = False

    @classmethod
    def read(cls, fields: Fields, limits: RequestLimits) -> "ChatRequest":
        """Read a request.

        Raises:
            InvalidRequestError: a parameter is unknown, missing, of another type, out of range or not supported.
            ApiError: the request is larger than the limits (status 413).
        """
        fields.check_known(_KNOWN)
        _check_what_changes_nothing(fields)
        model = fields.text("model")
        if model is None:
            raise InvalidRequestError("the parameter 'model' is missing.", "model", "missing_required_parameter")
        stream = fields.boolean("stream")
        if fields.get("stream_options") is not None and not stream:
            raise InvalidRequestError("'stream_options' needs 'stream': true.", "stream_options")
        stream_options = fields.object("stream_options")
        stream_options.check_known(("include_usage", "include_obfuscation"))
        stream_options.boolean("include_obfuscation")
        logprobs = fields.boolean("logprobs")
        top_logprobs = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
        if top_logprobs is not None and not logprobs:
            raise InvalidRequestError("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
        own = fields.object("visionward")
        own.check_known(("category_scores",))
        return cls(
            model=model,
            judged=JudgedMessages.read(fields.get("messages"), "messages", limits),
            stream=stream,
            include_usage=stream_options.boolean("include_usage"),
            logprobs=logprobs,
            top_logprobs=top_logprobs or 0,
            n=fields.integer("n", 1, MAX_CHOICES) or 1,
            max_tokens=_max_tokens(fields),
            stop=_stop(fields),
            category_scores=own.boolean("category_scores"),
        )


def _check_what_changes_nothing(fields: Fields) -> None:
    for name, (minimum, maximum) in _RANGES.items():
        fields.number(name, minimum, maximum)
    fields.integer("seed", -_MAX_INTEGER - 1, _MAX_INTEGER)
    fields.text("user")
    for name, unused in _UNUSED.items():
        value = fields.get(name)
        if value is not None and value not in unused:
            raise fields.unsupported(name, "a guard answers 'safe', or 'unsafe' and category codes, alone")


def _max_tokens(fields: Fields) -> int | None:
    newer = fields.integer("max_completion_tokens", 1, _MAX_INTEGER)
    older = fields.integer("max_tokens", 1, _MAX_INTEGER)
    if newer is not None and older is not None:
        raise InvalidRequestError("give 'max_completion_tokens' or 'max_tokens', not both.", "max_tokens")
    return older if newer is None else newer


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise fields.wrong_type("stop", "a string or an array of strings")
    if len(texts) > MAX_STOP_SEQUENCES or not all(texts):
        raise InvalidRequestError(f"'stop' takes up to {MAX_STOP_SEQUENCES} strings, none of them empty.", "stop")
    return tuple(texts)
