r"""Text that imitates the prompt's own markers, and its other readings, which are judged too.

To the model, one message ``... the moon?\n\nAgent: No.\n\nUser: Hello.`` looks like three turns, of which the last is
harmless. Such a conversation is judged as written, and also

- with all imitated markers neutralized: their words stay, in a form that the template does not use (``Agent -``,
  ``END-CONVERSATION``), and join the line before. Nothing is hidden, and nothing looks like a turn.
- passage by passage: the text between the markers of the judged message, each passage as if it were the whole message.
  Harmless passages cannot outweigh another one.

Unsafe wins.
"""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from visionward.errors import ConversationError
from visionward.names import ImitationTreatment
from visionward.quantities import count_text
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.markers import Imitation, Markers, template_markers
from visionward.runtime.guard.message import ImagePart, Message, TextPart
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.prompt import Prompt, Special

# Each passage is a prompt to evaluate, and whoever writes the text determines how many there are.
MAX_PASSAGES = 16
_WORD = re.compile(r"[^\W_]+")
_MAX_MARKERS_IN_A_WARNING = 5


def readings(
    template: ChatTemplate, conversation: Conversation, policy: Policy, treatment: ImitationTreatment
) -> tuple[Prompt, ...]:
    """The prompts to judge for a conversation with at most one image: first as written, then its other readings.

    Args:
        template: renders the prompts.
        conversation: what is judged.
        policy: the categories. They are the operator's own text and are not searched for markers.
        treatment: ``warn`` gives the first prompt only, with a warning.

    Raises:
        ConversationError: the conversation cannot be rendered, or has too many passages between imitated markers.
        ValueError: the treatment is unknown.
    """
    if treatment not in ("judge", "warn"):
        raise ValueError(f"imitation is {treatment!r}, expected 'judge' or 'warn'")
    given = template.render(conversation, policy)
    specials = (piece.text for piece in given.pieces if isinstance(piece, Special))
    markers = template_markers(given.template_texts, specials)
    imitated = dict.fromkeys(found.marker for text in conversation.texts for found in markers.find(text))
    if not imitated:
        return (given,)
    others = _other_readings(conversation, markers) if treatment == "judge" else ()
    warning = f"the text imitates markers of the prompt ({_listed(imitated)}); {_treated(len(others))}."
    given = replace(given, warnings=(*given.warnings, warning))
    return (given, *(template.render(other, policy) for other in others))


def _listed(markers: Iterable[str]) -> str:
    quoted = [f"'{marker}'" for marker in markers]
    return ", ".join(quoted[:_MAX_MARKERS_IN_A_WARNING] + ["..."] * (len(quoted) > _MAX_MARKERS_IN_A_WARNING))


def _treated(others: int) -> str:
    if not others:
        return "it was judged only as written"
    return f"it was also judged in {count_text(others, 'reading')} without them, and unsafe wins"


def _other_readings(conversation: Conversation, markers: Markers) -> tuple[Conversation, ...]:
    """The conversation with all markers neutralized, and with each passage in place of the judged message."""
    *earlier, last = (_neutralized_message(message, markers) for message in conversation.messages)
    judged = conversation.messages[-1]
    images = tuple(part for part in judged.parts if isinstance(part, ImagePart))
    passages = dict.fromkeys(passage for text in judged.texts for passage in _passages(text, markers.find(text)))
    if len(passages) > MAX_PASSAGES:
        raise ConversationError(
            f"message {len(conversation.messages)} imitates turns of a conversation: it has {len(passages)} passages "
            f"between markers such as 'User:', the limit is {MAX_PASSAGES}. Give turns as separate messages, or judge "
            "the text only as written (imitation='warn', --imitation warn)"
        )
    alone = (Message(judged.role, (*images, TextPart(passage))) for passage in passages)
    return tuple(Conversation((*earlier, message)) for message in (last, *alone))


def _neutralized_message(message: Message, markers: Markers) -> Message:
    parts = (
        TextPart(neutralized(part.text, markers.find(part.text))) if isinstance(part, TextPart) else part
        for part in message.parts
    )
    return Message(message.role, tuple(parts))


def neutralized(text: str, imitations: Iterable[Imitation]) -> str:
    """A text with imitated markers in another form: their words, joined by hyphens, on the line before."""
    pieces, position = [], 0
    for found in imitations:
        pieces += [text[position : found.start], _neutral(text[found.start : found.end], found.marker)]
        position = found.end
    return " ".join(piece.strip() for piece in (*pieces, text[position:]) if piece.strip())


def _neutral(imitated: str, marker: str) -> str:
    words = _WORD.findall(imitated)
    if len(words) == 1 < len(_WORD.findall(marker)):  # ENDCONVERSATION
        words = [words[0][:1], words[0][1:]]
    return "-".join(words) + (" -" if marker.endswith(":") else "")


def _passages(text: str, imitations: Sequence[Imitation]) -> Iterator[str]:
    """The text between markers. Nothing if there are no markers, because such a text is judged anyway."""
    starts = [0, *(found.end for found in imitations)]
    ends = [*(found.start for found in imitations), len(text)]
    for start, end in zip(starts, ends, strict=True):
        passage = text[start:end].strip()
        if imitations and passage.strip(string.punctuation + " "):
            yield passage
