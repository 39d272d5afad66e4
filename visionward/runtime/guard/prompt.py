"""The prompt: the chat template's rendering, in which special tokens are told from text that only looks like them.

The checkpoint's own template runs in Jinja's sandbox and never sees what a user wrote: each message, and each category
of a custom policy, goes in as an opaque placeholder. What comes out is the template's text, in which special tokens are
looked for, with placeholders between, which users' texts then replace. So no character that a user wrote can be part of
a special token, wherever those texts begin, end or meet.

The template is also run on the texts themselves, and both renderings must agree: then its treatment of the texts is
what the placeholders say. Every message and category must be there, in order, and so must the image. A template that
drops or changes one (it expects plain strings, it knows no policy, it shows no image) is not used: the built-in one is,
and a warning says why.

White space around a text stays outside its placeholder, so that ``trim`` in a template finds what it would find in the
text. It may therefore count as the template's; no special token holds any.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from visionward.errors import ConversationError, ModelFileError
from visionward.runtime.guard.conversation import Conversation, TextPart
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy

BEGIN_TOKEN = "<|begin_of_text|>"  # noqa: S105 - a token of the vocabulary, not a secret
IMAGE_TOKEN = "<|image|>"  # noqa: S105
END_HEADER_TOKEN = "<|end_header_id|>"  # noqa: S105
END_OF_TURN_TOKEN = "<|eot_id|>"  # noqa: S105

# Those that chat templates of the Llama 3 family write; a file's own list can be given instead.
LLAMA_SPECIAL_TOKENS = (
    BEGIN_TOKEN,
    "<|end_of_text|>",
    "<|start_header_id|>",
    END_HEADER_TOKEN,
    "<|eom_id|>",
    END_OF_TURN_TOKEN,
    "<|python_tag|>",
    IMAGE_TOKEN,
)

# What the answer begins with: the model was tuned to write it itself, so that the next token is the verdict.
_ANSWER_START = "\n\n"
_LISTED_CODE = re.compile(r"\b(S[1-9][0-9]*):")

# What running a template can raise, beside Jinja's own errors.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class Special:
    """A special token that the template put into the prompt."""

    text: str


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        pieces: special tokens, and runs of text between them. A run may hold text that looks like a special token:
            a user wrote it, and it is to be tokenized as plain text.
        warnings: what the user must know about how the prompt was made, a sentence each.
        template_texts: what the template wrote between the texts of users and of a custom policy.
    """

    pieces: tuple[Special | str, ...]
    warnings: tuple[str, ...] = ()
    template_texts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt as one text, for people to read: it no longer tells special tokens from text."""
        return "".join(piece.text if isinstance(piece, Special) else piece for piece in self.pieces)


class Tokenizer(Protocol):
    """What `tokenize` needs."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The id of each special token."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which nothing is special; nothing is put in front or behind."""


def tokenize(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt: a run of text between two special tokens is tokenized in one piece.

    Raises:
        ModelFileError: the vocabulary lacks a special token that the template wrote.
    """
    ids: list[int] = []
    for piece in prompt.pieces:
        if isinstance(piece, str):
            ids.extend(tokenizer.encode(piece))
        elif piece.text in tokenizer.special_tokens:
            ids.append(tokenizer.special_tokens[piece.text])
        else:
            raise ModelFileError(f"the vocabulary has no token {piece.text}, which the prompt needs")
    return ids


class ChatTemplate:
    """Renders conversations with a checkpoint's own template, or with the built-in one where that one will not do."""

    def __init__(self, source: str | None = None, *, special_tokens: Iterable[str] = LLAMA_SPECIAL_TOKENS) -> None:
        """Compile a template.

        Args:
            source: the Jinja template; None for the built-in one.
            special_tokens: the texts of the vocabulary's special tokens.

        Raises:
            ModelFileError: the template has a syntax error.
        """
        self._special_tokens = tuple(special_tokens)
        self._source = source
        self._own = None if source is None else _compile(source)

    @property
    def looks_like_guard(self) -> bool:
        """Whether the template asks for an answer of ``safe`` or ``unsafe``, as a guard's does."""
        return self._source is None or all(re.search(rf"\b{word}\b", self._source) for word in ("safe", "unsafe"))

    def render(self, conversation: Conversation, policy: Policy = DEFAULT_POLICY) -> Prompt:
        """The prompt that asks whether the last message of a conversation is safe by a policy.

        It begins with one begin-of-text token, holds one image token if there is an image, and ends with the two line
        breaks behind the assistant's header, after which the next token is the verdict.

        Raises:
            ConversationError: there is more than one image, or the template refuses the conversation.
        """
        if len(conversation.images) > 1:
            raise ConversationError(
                f"the conversation has {len(conversation.images)} images, and a prompt has one: render one for each"
            )
        warnings: list[str] = []
        if self._own is not None:
            if self.looks_like_guard:
                try:
                    return self._render_with(self._own, conversation, policy)
                except _UnusableTemplateError as reason:
                    problem = str(reason)
            else:
                problem = "it does not ask for a verdict of 'safe' or 'unsafe', so the model may be no guard at all"
            warnings.append(f"the model's own prompt template was not used: {problem}; the built-in prompt was")
        try:
            prompt = self._render_with(_compile(_built_in()), conversation, policy)
        except _UnusableTemplateError as reason:
            raise ConversationError(f"the prompt cannot be rendered: {reason}") from reason
        return replace(prompt, warnings=(*warnings, *prompt.warnings))

    def _render_with(self, template: jinja2.Template, conversation: Conversation, policy: Policy) -> Prompt:
        """Render with one template, in the first way of telling it the policy that it honours."""
        problem = _UnusableTemplateError("it cannot be given a policy")
        for variables in _policy_variables(policy):
            try:
                segments = _run(template, conversation, variables)
                warnings = _check_policy(segments, policy)
                pieces = self._split(segments)
                _check_pieces(pieces, conversation)
            except _UnusableTemplateError as reason:
                problem = reason
            else:
                return Prompt(_framed(pieces), warnings, tuple(segments[0::2]))
        raise problem

    def _split(self, segments: Sequence[str]) -> list[Special | str]:
        """Alternating texts of the template and of users, cut at the special tokens among the template's."""
        tokens = [token for token in self._special_tokens if token and not re.search(r"\s", token)]
        longest_first = sorted(tokens, key=len, reverse=True)
        pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        pieces: list[Special | str] = []
        run: list[str] = []

        def close_run() -> None:
            if text := "".join(run):
                pieces.append(text)
            run.clear()

        for index, segment in enumerate(segments):
            if index % 2:
                run.append(segment)
                continue
            for position, part in enumerate(pattern.split(segment)):
                if position % 2:
                    close_run()
                    pieces.append(Special(part))
                else:
                    run.append(part)
        close_run()
        return pieces


class _UnusableTemplateError(Exception):
    """A template did not render what it was given; the text says how."""


class _RefusalError(jinja2.TemplateError):
    """What a template raises on purpose."""


def _raise_exception(message: object) -> NoReturn:
    raise _RefusalError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, set up as in Transformers (`utils/chat_template_utils.py`)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@cache
def _built_in() -> str:
    return resources.files("visionward.runtime.guard").joinpath("llama_guard_3_vision.jinja").read_text("utf-8")


@cache
def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as cause:
        raise ModelFileError(f"the chat template has an error in line {cause.lineno}: {cause.message}") from cause


def _policy_variables(policy: Policy) -> list[dict[str, Any]]:
    """The ways to tell a template about a policy, the best first.

    What is left of the default policy is told by exclusion, so that the checkpoint's own text is used.
    """
    custom = {"categories": policy.prompt_categories(), "excluded_category_keys": []}
    exclusions = policy.default_exclusions
    if exclusions is None:
        return [custom]
    if not exclusions:
        return [{"excluded_category_keys": []}]
    return [{"excluded_category_keys": list(exclusions)}, custom]


def _run(template: jinja2.Template, conversation: Conversation, variables: Mapping[str, Any]) -> list[str]:
    """The rendering, cut into texts of the template (at even indices) and of users."""
    categories: Mapping[str, str] = variables.get("categories", {})
    texts = [*categories.values(), *conversation.texts]
    marker = _unused_character(texts)
    hidden = iter([_hide(text, f"{marker}{index}{marker}") for index, text in enumerate(texts)])
    hidden_variables = dict(variables)
    if categories:
        hidden_variables["categories"] = {code: next(hidden) for code in categories}
    rendered = _render(template, conversation, hidden, hidden_variables)

    segments = re.split(f"{marker}([0-9]+){marker}", rendered)
    if marker in "".join(segments):
        raise _UnusableTemplateError("it cuts messages or categories apart")
    found = iter(segments[1::2])
    for index in range(len(texts)):
        if str(index) not in found:  # which reads on to it
            what = "categories of the policy" if index < len(categories) else "messages"
            raise _UnusableTemplateError(f"it leaves out {what}, or alters them")
    segments[1::2] = [texts[int(index)].strip() for index in segments[1::2]]
    if "".join(segments) != _render(template, conversation, iter(conversation.texts), variables):
        raise _UnusableTemplateError("it alters messages or categories")
    return segments


def _render(
    template: jinja2.Template, conversation: Conversation, texts: Iterator[str], variables: Mapping[str, Any]
) -> str:
    """The rendering with other texts in place of the conversation's own."""
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": next(texts)} if isinstance(part, TextPart) else {"type": "image"}
                for part in message.parts
            ],
        }
        for message in conversation.messages
    ]
    try:
        return template.render(
            messages=messages,
            bos_token=BEGIN_TOKEN,
            eos_token=END_OF_TURN_TOKEN,
            add_generation_prompt=True,
            **variables,
        )
    except _RefusalError as cause:
        raise ConversationError(f"the model's chat template refuses the conversation: {cause}") from cause
    except _TEMPLATE_ERRORS as cause:
        raise _UnusableTemplateError(f"it fails on this conversation ({type(cause).__name__}: {cause})") from cause


def _unused_character(texts: Iterable[str]) -> str:
    """A character that is in none of the texts: one that Unicode keeps free, or else a private one."""
    used = set("".join(texts))
    for code in chain(range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)):
        if chr(code) not in used:
            return chr(code)
    raise ConversationError("the conversation uses every private character of Unicode")


def _hide(text: str, placeholder: str) -> str:
    """A text with a placeholder for all but the white space around it."""
    core = text.strip()
    start = text.index(core)
    return text[:start] + placeholder + text[start + len(core) :]


def _check_policy(segments: Sequence[str], policy: Policy) -> tuple[str, ...]:
    """The prompt lists the policy's codes and no others; only a warning if nothing but the default was asked for."""
    listed = tuple(_LISTED_CODE.findall("\ufffc".join(segments[0::2])))
    if listed == policy.codes:
        return ()
    if not policy.is_default:
        raise _UnusableTemplateError("it does not take this policy")
    found = ", ".join(listed) or "none in a form that is known"
    return (f"the model's own prompt template lists other categories than {', '.join(policy.codes)}: {found}",)


def _check_pieces(pieces: Sequence[Special | str], conversation: Conversation) -> None:
    """There is one image token for an image and none without, and the assistant's turn comes last."""
    found, expected = pieces.count(Special(IMAGE_TOKEN)), len(conversation.images)
    if found != expected:
        raise _UnusableTemplateError(f"it writes {found} image tokens for {expected} images")
    closing = [piece for piece in pieces[-2:] if isinstance(piece, Special) or piece.strip()]
    if not closing or closing[-1] != Special(END_HEADER_TOKEN):
        raise _UnusableTemplateError("it does not end with the header of the assistant's answer")


def _framed(pieces: Iterable[Special | str]) -> tuple[Special | str, ...]:
    """The pieces with one begin-of-text token, in front, and two line breaks at the end."""
    framed: list[Special | str] = [Special(BEGIN_TOKEN)]
    for piece in pieces:
        last = framed[-1]
        if isinstance(piece, str) and isinstance(last, str):
            framed[-1] = last + piece
        elif piece != Special(BEGIN_TOKEN):
            framed.append(piece)
    if isinstance(framed[-1], str):
        framed.pop()
    return (*framed, _ANSWER_START)
