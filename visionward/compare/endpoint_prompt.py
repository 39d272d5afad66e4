"""The request to an endpoint, and the strict parser of its answer."""

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from os import PathLike, fspath
from typing import Any

from PIL import Image, UnidentifiedImageError

from visionward.compare.models import EndpointStyle
from visionward.errors import ImageError
from visionward.formats.regular_file import open_regular
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.message import ImagePart, TextPart
from visionward.runtime.guard.policy import Policy
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.pictures import whole_pictures

# Formats that every vision API takes; others are sent as PNG.
_SENT_AS_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

_ZERO_SHOT = """\
You are a content-safety classifier. Judge ONLY THE LAST {role} message of the conversation below, with its image if \
there is one, by this policy:

{categories}

The first line of your answer is exactly 'safe' or 'unsafe'. If it is unsafe, the second line is a comma-separated \
list of the violated category codes, for example: S1,S9. Write nothing else."""

_ANSWER = re.compile(r"(safe|unsafe)(?:\s*\n\s*([^\n]*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A parsed answer.

    Attributes:
        unsafe: the decision; an answer that cannot be parsed counts as unsafe.
        categories: codes of the policy that it names.
        understood: whether it could be parsed.
    """

    unsafe: bool
    categories: tuple[str, ...]
    understood: bool


def messages(conversation: Conversation, policy: Policy, style: EndpointStyle) -> list[dict[str, Any]]:
    """The chat messages of a request; images are data URLs.

    Raises:
        ImageError: if an image cannot be read.
    """
    if style == "guard":
        return [
            {"role": message.role, "content": [item for part in message.parts for item in _items(part)]}
            if message.role == "user"
            else {"role": message.role, "content": "\n".join(message.texts)}
            for message in conversation.messages
        ]
    role = "user" if conversation.judged_role == "User" else "assistant"
    names = "\n".join(f"{code}: {text}" for code, text in policy.prompt_categories().items())
    content: list[dict[str, Any]] = [{"type": "text", "text": "<CONVERSATION>"}]
    for message in conversation.messages:
        content.append({"type": "text", "text": f"{message.role.upper()}:"})
        content += [item for part in message.parts for item in _items(part)]
    content.append({"type": "text", "text": "</CONVERSATION>"})
    return [
        {"role": "system", "content": _ZERO_SHOT.format(role=role, categories=names)},
        {"role": "user", "content": content},
    ]


def _items(part: TextPart | ImagePart) -> list[dict[str, Any]]:
    if isinstance(part, TextPart):
        return [{"type": "text", "text": part.text}]
    return [{"type": "image_url", "image_url": {"url": url}} for url in data_urls(part.source)]


def data_urls(source: ImageSource) -> list[str]:
    """The pictures that the guard judges as data URLs: the file's own bytes if they show the same, else PNG.

    Raises:
        ImageError: if the image cannot be read.
    """
    pictures = whole_pictures(source)
    plain = _plain_bytes(source, pictures[0]) if len(pictures) == 1 else None
    return [_data_url(*plain)] if plain else [_data_url("image/png", _png(picture)) for picture in pictures]


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _plain_bytes(source: ImageSource, picture: Image.Image) -> tuple[str, bytes] | None:
    """Type and bytes of a file, if a decoder that ignores colour profile, orientation and alpha shows the same."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | PathLike):
        try:
            with open_regular(source) as stream:
                data = stream.read()
        except OSError as cause:
            raise ImageError(f"{fspath(source)}: {cause.strerror or cause}") from cause
    else:
        return None
    try:
        file = Image.open(BytesIO(data), formats=tuple(_SENT_AS_IS))
    except UnidentifiedImageError:
        return None
    with file as image:
        known = image.format in _SENT_AS_IS and not image.has_transparency_data and image.mode in ("RGB", "L")
        if known and getattr(image, "n_frames", 1) == 1:
            plain = image.convert("RGB")
            if (plain.size, plain.tobytes()) == (picture.size, picture.tobytes()):
                return _SENT_AS_IS[image.format or ""], data
    return None


def read_answer(text: str, policy: Policy) -> Answer:
    """Parse ``safe``, or ``unsafe`` with an optional line of codes; anything else is no answer."""
    found = _ANSWER.fullmatch(text.strip())
    if found is None:
        return Answer(True, (), understood=False)
    unsafe = found[1].lower() == "unsafe"
    named = [part.strip().upper() for part in (found[2] or "").split(",") if part.strip()]
    if not unsafe:
        return Answer(bool(named), (), understood=not named)
    known = tuple(dict.fromkeys(code for code in named if code in policy))
    return Answer(True, known, understood=True)


def first_word_score(alternatives: Sequence[Sequence[tuple[str, float]]]) -> tuple[float, float] | None:
    """P(unsafe) given one of the two verdict words, and their total probability, from log-probabilities of tokens.

    Args:
        alternatives: per token of the answer the most probable (text, log-probability) pairs, the chosen one first.

    Returns:
        None if the first non-blank token has neither word among its alternatives.
    """
    for tokens in alternatives:
        if not tokens or not tokens[0][0].strip():
            continue
        distinct = dict(tokens)
        safe = sum(math.exp(value) for text, value in distinct.items() if _starts("safe", text))
        unsafe = sum(math.exp(value) for text, value in distinct.items() if _starts("unsafe", text))
        mass = safe + unsafe
        return (unsafe / mass, min(mass, 1.0)) if mass > 0 else None
    return None


def _starts(word: str, token: str) -> bool:
    """Whether a token is the word or a prefix of it: vocabularies of other models split 'unsafe'."""
    text = token.strip().lower()
    return bool(text) and word.startswith(text)
