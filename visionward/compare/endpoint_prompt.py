"""What a model behind an API is asked, and how its answer is read: strictly, or not at all."""

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

# What every vision API takes; anything else is sent as PNG.
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
    """An answer that was read.

    Attributes:
        unsafe: what it says; an answer that cannot be read counts as unsafe.
        categories: codes of the policy that it names.
        understood: whether it could be read.
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
    """The pictures that the guard looks at as data URLs: the file's own bytes where they are plainly that, else PNG.

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
    """A file's type and bytes, if a reader that overlooks colours, turning and transparency sees the same in them."""
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
    """Read ``safe``, or ``unsafe`` and perhaps a line of codes; anything else is no answer."""
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
    """P(unsafe) among the two verdict words, and their mass, from the tokens' log-probabilities.

    Args:
        alternatives: for each token of the answer the most probable (text, log-probability) pairs, the one that was
            chosen first.

    Returns:
        None if the first word that is not blank has neither among its alternatives.
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
    """Whether a token is the word or its beginning: vocabularies of other models cut 'unsafe' in pieces."""
    text = token.strip().lower()
    return bool(text) and word.startswith(text)
