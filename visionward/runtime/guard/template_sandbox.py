"""Running a chat template in Jinja's sandbox, with the functions that Transformers provides."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from visionward.errors import ConversationError, ModelFileError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.message import TextPart
from visionward.runtime.guard.prompt import BEGIN_TOKEN, END_OF_TURN_TOKEN

# What running a template can raise, besides Jinja's own errors.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class UnusableTemplateError(Exception):
    """A template did not render its input. The message completes "the template was not used: ..."."""


class _RefusalError(jinja2.TemplateError):
    """Raised by the template itself."""


@cache
def built_in_template() -> str:
    """The source of the template that comes with visionward."""
    return resources.files("visionward.runtime.guard").joinpath("llama_guard_3_vision.jinja").read_text("utf-8")


@cache
def compile_template(source: str) -> jinja2.Template:
    """Compile a template.

    Raises:
        ModelFileError: the template has a syntax error.
    """
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as cause:
        raise ModelFileError(f"syntax error in the chat template, line {cause.lineno}: {cause.message}") from cause


def run_template(
    template: jinja2.Template, conversation: Conversation, texts: Iterator[str], variables: Mapping[str, Any]
) -> str:
    """Render a conversation.

    Args:
        template: a compiled template.
        conversation: its messages.
        texts: what to render in place of the conversation's texts, in order.
        variables: further variables of the template.

    Raises:
        ConversationError: the template itself refuses the conversation.
        UnusableTemplateError: the template fails.
    """
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
        raise UnusableTemplateError(f"it fails on this conversation ({type(cause).__name__}: {cause})") from cause


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, configured as in Transformers (`utils/chat_template_utils.py`)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


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
