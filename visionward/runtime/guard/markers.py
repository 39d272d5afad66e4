"""The visible markers of a prompt's template, and finding them in texts of users.

In a prompt, plain text separates the turns: ``User:`` and ``Agent:`` before each message, ``<END CONVERSATION>`` after
the last. No character of a user's text becomes a special token, but any text can contain these markers, and a model may
take what follows for the next turn or for the end of the conversation.

Texts are compared in a folded form, character by character: compatibility characters become plain letters (NFKD),
accents and invisible characters are dropped, letters that look like Latin letters become those, and case is folded.
Between the words of a marker, and before its colon, there may be up to eight characters that are not letters or digits:
white space of any kind, quotation and list marks, Markdown emphasis. A marker counts wherever a word can begin, because
the model does not need a line break before it either.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Markers of the built-in template, and speaker names of other prompts. They apply to every template, in addition to its
# own markers.
KNOWN_MARKERS = (
    *("User:", "Agent:", "Assistant:", "Human:"),
    *("<BEGIN CONVERSATION>", "<END CONVERSATION>", "<BEGIN UNSAFECONTENT CATEGORIES>"),
    *("<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>"),
    *("Task: Check if there", "Provide your safety assessment"),
)
_CODE_MARKER = "S1:"  # stands for every code that begins a line in the list of categories
_MAX_LINE_WORDS = 4

_WORD = re.compile(r"[^\W_]+")
_LINE_BREAKS = r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+"
_LEFT, _RIGHT = r"[<\[({|]", r"[>\])}|]"

# Parts of patterns. A word begins after anything but a letter or digit, or after a line break written as \n.
_START = r"(?:(?<![^\W_])|(?<=\\[nrt]))"
_END = r"(?![^\W_])"
_GAP = r"[\W_]{0,8}?"

# From Unicode's confusables.txt (UTS 39), characters that look like letters of markers and that NFKD does not change:
# Greek, Cyrillic and Armenian letters, small capitals, phonetic letters, and colons.
_LOOKALIKES = {
    "A": "\u0391\u0410", "B": "\u0392\u0412", "C": "\u0421", "E": "\u0395\u0415", "G": "\u050c", "H": "\u0397\u041d",
    "I": "\u0399\u0406", "K": "\u039a\u041a", "M": "\u039c\u041c", "N": "\u039d", "O": "\u039f\u041e",
    "P": "\u03a1\u0420", "S": "\u0405", "T": "\u03a4\u0422", "U": "\u054d", "V": "\u0474", "Y": "\u03a5\u0423",
    "a": "\u0251\u03b1\u0430\u1d00", "b": "\u0299", "c": "\u03f2\u0441\u1d04", "d": "\u0501\u1d05",
    "e": "\u03b5\u0435\u1d07", "f": "\ua730", "g": "\u0261\u0262\u0581", "h": "\u029c\u04bb",
    "i": "\u0131\u026a\u03b9\u0456", "k": "\u03ba\u043a\u1d0b", "l": "\u029f\u04cf", "m": "\u1d0d",
    "n": "\u0274\u0578\u043f", "o": "\u03bf\u043e\u0585\u1d0f", "p": "\u03c1\u0440\u1d18", "r": "\u0280\u0433",
    "s": "\u0455\ua731", "t": "\u03c4\u0442\u1d1b", "u": "\u03c5\u057d\u1d1c", "v": "\u03bd\u0475\u1d20",
    "y": "\u0443\u028f", ":": "\u02d0\u02f8\u0589\u05c3\u2236\ua789",
}  # fmt: skip
_PLAIN = str.maketrans({like: plain for plain, group in _LOOKALIKES.items() for like in group})
_HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"  # invisible letters
_VISIBLE_CONTROLS = "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85"
_INVISIBLE_ASCII = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")


@dataclass(frozen=True)
class Imitation:
    """A marker in a text: its position, and its spelling in the template."""

    start: int
    end: int
    marker: str


class Markers:
    """The markers of a template.

    Args:
        lines: lines that the template writes. The first four words of a line are a marker, unless the line is one word
            without punctuation (``user`` in a header).
        special_tokens: the template's special tokens, each of which is a marker as a whole.
    """

    def __init__(self, lines: Iterable[str] = (), special_tokens: Iterable[str] = ()) -> None:
        spelled = dict.fromkeys((*KNOWN_MARKERS, *map(_beginning, lines)))
        enclosed = [(marker, _enclosed(marker)) for marker in (*spelled, *special_tokens)]
        bare = [*((marker, _bare(marker)) for marker in spelled), (_CODE_MARKER, rf"s[1-9][0-9]?(?:{_GAP}:)+")]
        patterns = [(marker, pattern) for marker, pattern in (*enclosed, *bare) if pattern]
        self._markers = [marker for marker, _ in patterns]
        self._pattern = re.compile(f"{_alternatives(enclosed)}|{_START}{_alternatives(bare)}")

    def find(self, text: str) -> tuple[Imitation, ...]:
        """The imitated markers in a text, in order."""
        folded, positions = _folded(text)
        return tuple(
            Imitation(positions[found.start()], positions[found.end() - 1] + 1, self._markers[found.lastindex - 1])
            for found in self._pattern.finditer(folded)
            if found.lastindex is not None
        )


def _alternatives(patterns: Iterable[tuple[str, str | None]]) -> str:
    """A pattern that matches any of the patterns, with one group for each."""
    return "(?:" + "|".join(f"({pattern})" for _, pattern in patterns if pattern) + ")"


def _words(marker: str) -> list[str]:
    return [re.escape(word) for word in _WORD.findall(_folded(marker)[0])]


def _enclosed(marker: str) -> str | None:
    """A pattern for a marker that begins with punctuation: words or a special token in brackets, or ``### User``."""
    words = _words(marker)
    if marker.startswith("<|") and words:
        return f"{_LEFT}{_GAP}{_GAP.join(words)}{_GAP}{_RIGHT}+"
    if len(words) > 1:
        return f"{_LEFT}{_GAP.join(words)}{_RIGHT}"
    if words and not _WORD.match(marker) and _WORD.match(marker[-1]):
        return f"{re.escape(marker[0])}{_GAP}{words[0]}{_END}"
    return None


def _bare(marker: str) -> str | None:
    """A pattern for a marker without its brackets: several words, or one word with its punctuation. None for others.

    It does not match words that are joined by single hyphens only, which is the form of a neutralized marker. (Two of
    its words may be one word in another marker: UNSAFECONTENT.)
    """
    words = _words(marker)
    if len(words) > 1:
        neutral = rf"(?=[^\W_]+-){'-?'.join(words)}{_END}"
        return f"(?!{neutral}){_GAP.join(words)}{_END}"
    right = marker.strip()[-1:]
    if not words or _WORD.match(right):
        return None
    return f"{words[0]}(?:{_GAP}{re.escape(right)})+"


@lru_cache(maxsize=64)
def _markers(lines: tuple[str, ...], special_tokens: tuple[str, ...]) -> Markers:
    return Markers(lines, special_tokens)


def template_markers(texts: Iterable[str], special_tokens: Iterable[str]) -> Markers:
    """The markers of a rendered prompt.

    Args:
        texts: the text written by its template, including special tokens.
        special_tokens: the special tokens in it.
    """
    tokens = tuple(sorted(set(special_tokens)))
    cut = re.compile("|".join([*map(re.escape, tokens), _LINE_BREAKS]))
    return _markers(tuple(sorted({line.strip() for text in texts for line in cut.split(text)})), tokens)


def _beginning(line: str) -> str:
    """The first words of a line. A shorter line is returned whole, with its punctuation."""
    words = list(_WORD.finditer(line))
    return line if len(words) <= _MAX_LINE_WORDS else line[words[0].start() : words[_MAX_LINE_WORDS - 1].end()]


def _folded(text: str) -> tuple[str, list[int]]:
    """A text in folded form, and the original position of each of its characters."""
    if text.isascii() and not _INVISIBLE_ASCII.search(text):
        return text.lower(), list(range(len(text)))
    table = {character: _folded_character(character) for character in set(text)}
    parts = [table[character] for character in text]
    return "".join(parts), [index for index, part in enumerate(parts) for _ in part]


def _folded_character(character: str) -> str:
    visible = (plain for plain in unicodedata.normalize("NFKD", character) if _is_visible(plain))
    return "".join(visible).translate(_PLAIN).casefold()


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cc":
        return character in _VISIBLE_CONTROLS
    return category not in ("Cf", "Mn", "Me") and character not in _HANGUL_FILLERS
