"""Rendering the prompt with a chat template, so that no text of a user can become a special token.

The checkpoint's own template runs in Jinja's sandbox and never sees the texts of users. Each text part, and each
category of a custom policy, is replaced by an opaque placeholder. The output therefore consists of the template's own
text, in which special tokens are recognized, and of placeholders, which are then replaced by the texts. No character of
a user's text can be part of a special token, wherever the texts begin, end or meet.

The template is also run on the texts themselves, and both renderings must agree. This shows that the template treats
the texts as it treats the placeholders. Every text part and category must appear, in order, and so must the image. A
template that drops or changes one (because it expects plain strings, ignores the policy or shows no image) is not used:
the built-in template is used instead, with a warning that says why.

White space around a text stays outside its placeholder, so that ``trim`` in a template has the same effect on both.
That white space may therefore count as the template's own text, but no special token contains any.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import jinja2

from visionward.errors import ConversationError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import CODE_PATTERN, DEFAULT_POLICY, Policy
from visionward.runtime.guard.prompt import (
    BEGIN_TOKEN,
    END_HEADER_TOKEN,
    IMAGE_TOKEN,
    LLAMA_SPECIAL_TOKENS,
    Prompt,
    Special,
)
from visionward.runtime.guard.template_sandbox import (
    UnusableTemplateError,
    built_in_template,
    compile_template,
    run_template,
)

# The model was tuned to begin its answer with these line breaks. After them, the next token is the verdict.
_ANSWER_START = "\n\n"
_LISTED_CODE = re.compile(rf"\b({CODE_PATTERN}):")


class ChatTemplate:
    """Renders conversations with a checkpoint's own template, or with the built-in one if that is unusable."""

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
        self._own = None if source is None else compile_template(source)

    @property
    def looks_like_guard(self) -> bool:
        """Whether the template asks for an answer of ``safe`` or ``unsafe``, as a guard's does."""
        return self._source is None or all(re.search(rf"\b{word}\b", self._source) for word in ("safe", "unsafe"))

    def render(self, conversation: Conversation, policy: Policy = DEFAULT_POLICY) -> Prompt:
        """The prompt that asks whether the last message of a conversation is safe by a policy.

        It begins with one begin-of-text token, has one image token if there is an image, and ends with the two line
        breaks after the header of the assistant's answer. The next token is the verdict.

        Raises:
            ConversationError: there is more than one image, or the template refuses the conversation.
        """
        if len(conversation.images) > 1:
            raise ConversationError(
                f"the conversation has {len(conversation.images)} images, but a prompt holds one: render one prompt "
                "per image"
            )
        warnings = list(conversation.warnings)
        if self._own is not None:
            try:
                prompt = self._render_with_own(self._own, conversation, policy)
            except UnusableTemplateError as reason:
                warnings.append(
                    f"the model's own chat template was not used: {reason}. The built-in one was used instead."
                )
            else:
                return replace(prompt, warnings=(*warnings, *prompt.warnings))
        try:
            prompt = self._render_with(compile_template(built_in_template()), conversation, policy)
        except UnusableTemplateError as reason:
            raise ConversationError(f"the prompt cannot be rendered: {reason}") from reason
        return replace(prompt, warnings=(*warnings, *prompt.warnings))

    def _render_with_own(self, template: jinja2.Template, conversation: Conversation, policy: Policy) -> Prompt:
        if not self.looks_like_guard:
            raise UnusableTemplateError("it does not ask for 'safe' or 'unsafe', so the model may not be a guard")
        return self._render_with(template, conversation, policy)

    def _render_with(self, template: jinja2.Template, conversation: Conversation, policy: Policy) -> Prompt:
        """Render with one template, passing the policy in the first way that the template supports."""
        problem = UnusableTemplateError("it accepts no policy")
        for variables in _policy_variables(policy):
            try:
                segments = _segments(template, conversation, variables)
                warnings = _check_policy(segments, policy)
                pieces = self._split(segments)
                _check_pieces(pieces, conversation)
            except UnusableTemplateError as reason:
                problem = reason
            else:
                return Prompt(_framed(pieces), warnings, tuple(segments[0::2]))
        raise problem

    def _split(self, segments: Sequence[str]) -> list[Special | str]:
        """Cut alternating texts of the template and of users at the special tokens among the template's texts."""
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


def _policy_variables(policy: Policy) -> list[dict[str, Any]]:
    """The ways to pass a policy to a template, the best first.

    A part of the default policy is passed as exclusions, so that the checkpoint's own text is used.
    """
    custom = {"categories": policy.prompt_categories(), "excluded_category_keys": []}
    exclusions = policy.default_exclusions
    if exclusions is None:
        return [custom]
    if not exclusions:
        return [{"excluded_category_keys": []}]
    return [{"excluded_category_keys": list(exclusions)}, custom]


def _segments(template: jinja2.Template, conversation: Conversation, variables: Mapping[str, Any]) -> list[str]:
    """The rendering, cut into texts of the template (at even indices) and of users (at odd indices)."""
    categories: Mapping[str, str] = variables.get("categories", {})
    texts = [*categories.values(), *conversation.texts]
    marker = _unused_character(texts)
    hidden = iter([_hide(text, f"{marker}{index}{marker}") for index, text in enumerate(texts)])
    hidden_variables = dict(variables)
    if categories:
        hidden_variables["categories"] = {code: next(hidden) for code in categories}
    rendered = run_template(template, conversation, hidden, hidden_variables)

    segments = re.split(f"{marker}([0-9]+){marker}", rendered)
    if marker in "".join(segments):
        raise UnusableTemplateError("it splits messages or categories")
    found = iter(segments[1::2])
    for index in range(len(texts)):
        if str(index) not in found:  # consumes the iterator up to that index
            what = "categories of the policy" if index < len(categories) else "messages"
            raise UnusableTemplateError(f"it omits or changes {what}")
    segments[1::2] = [texts[int(index)].strip() for index in segments[1::2]]
    if "".join(segments) != run_template(template, conversation, iter(conversation.texts), variables):
        raise UnusableTemplateError("it changes messages or categories")
    return segments


def _unused_character(texts: Iterable[str]) -> str:
    """A character that none of the texts contains: a noncharacter of Unicode, or else a private-use one."""
    used = set("".join(texts))
    for code in chain(range(0xFDD0, 0xFDF0), range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)):
        if chr(code) not in used:
            return chr(code)
    raise ConversationError("the conversation uses every private-use character of Unicode")


def _hide(text: str, placeholder: str) -> str:
    """A text with a placeholder for everything but the white space around it."""
    core = text.strip()
    start = text.index(core)
    return text[:start] + placeholder + text[start + len(core) :]


def _check_policy(segments: Sequence[str], policy: Policy) -> tuple[str, ...]:
    """Check that the prompt lists exactly the policy's codes. For the default policy a difference is only a warning."""
    listed = tuple(_LISTED_CODE.findall("\ufffc".join(segments[0::2])))
    if listed == policy.codes:
        return ()
    if not policy.is_default:
        raise UnusableTemplateError("it does not support this policy")
    found = ", ".join(listed) or "none in a known form"
    return (f"the model's own chat template lists other categories than {', '.join(policy.codes)}: {found}.",)


def _check_pieces(pieces: Sequence[Special | str], conversation: Conversation) -> None:
    """Check that there is one image token per image, and that the assistant's turn comes last."""
    found, expected = pieces.count(Special(IMAGE_TOKEN)), len(conversation.images)
    if found != expected:
        raise UnusableTemplateError(f"it writes {found} image tokens, expected {expected}")
    closing = [piece for piece in pieces[-2:] if isinstance(piece, Special) or piece.strip()]
    if not closing or closing[-1] != Special(END_HEADER_TOKEN):
        raise UnusableTemplateError("it does not end with the header of the assistant's answer")


def _framed(pieces: Iterable[Special | str]) -> tuple[Special | str, ...]:
    """The pieces with exactly one begin-of-text token, at the start, and two line breaks at the end."""
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
