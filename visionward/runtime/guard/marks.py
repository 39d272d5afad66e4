"""The visible marks of a prompt's template, and finding them in what users wrote.

A prompt tells turns by plain text: ``User:`` and ``Agent:`` in front of what was said, ``<END CONVERSATION>`` behind.
No character of a user's text becomes a special token, but any text can spell those marks, and a model that reads them
may take what follows for the next turn, or for the end of the conversation.

Texts are compared in a folded form, character by character: compatibility forms become plain letters (NFKD), accents
and characters that nobody sees are left out, letters that look like Latin ones become those, and case is folded.
Between the words of a mark, and in front of its colon, may stand up to eight characters that are no letters or digits:
white space of any kind, quote and list marks, Markdown's emphasis. A mark counts wherever a word can begin, for the
models do not need a line break in front of it either.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Marks of the built-in template, and names of speakers that other prompts have. They count whatever template is used;
# its own marks are added.
KNOWN_MARKS = (
    *("User:", "Agent:", "Assistant:", "Human:"),
    *("<BEGIN CONVERSATION>", "<END CONVERSATION>", "<BEGIN UNSAFECONTENT CATEGORIES>"),
    *("<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>"),
    *("Task: Check if there", "Provide your safety assessment"),
)
_CODE_MARK = "S1:"  # which stands for every code that begins a line in the list of categories
_WORDS_OF_A_LINE = 4

_WORD = re.compile(r"[^\W_]+")
_LINE_BREAKS = r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+"
_LEFT, _RIGHT = r"[<\[({|]", r"[>\])}|]"

# Parts of patterns. A word begins behind anything but a letter or digit, or behind a line break spelled out as \n.
_START = r"(?:(?<![^\W_])|(?<=\\[nrt]))"
_END = r"(?![^\W_])"
_GAP = r"[\W_]{0,8}?"

# Of Unicode's confusables.txt (UTS 39) the letters that look like those of marks and that NFKD leaves alone: Greek,
# Cyrillic and Armenian ones, small capitals, phonetic letters; and colons.
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
_HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters without a shape
_SEEN_CONTROLS = "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85"
_UNSEEN_ASCII = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")


@dataclass(frozen=True)
class Imitation:
    """A mark in a text: its place, and how the template spells it."""

    start: int
    end: int
    mark: str


class Marks:
    """The marks of a template.

    Args:
        lines: lines that the template writes. Each counts by its first four words; one of a single word and no
            punctuation (``user`` in a header) does not count.
        special_tokens: the template's special tokens, which count in full.
    """

    def __init__(self, lines: Iterable[str] = (), special_tokens: Iterable[str] = ()) -> None:
        spelled = dict.fromkeys((*KNOWN_MARKS, *map(_beginning, lines)))
        enclosed = [(mark, _enclosed(mark)) for mark in (*spelled, *special_tokens)]
        bare = [*((mark, _bare(mark)) for mark in spelled), (_CODE_MARK, rf"s[1-9][0-9]?(?:{_GAP}:)+")]
        patterns = [(mark, pattern) for mark, pattern in (*enclosed, *bare) if pattern]
        self._marks = [mark for mark, _ in patterns]
        self._pattern = re.compile(f"{_alternatives(enclosed)}|{_START}{_alternatives(bare)}")

    def find(self, text: str) -> tuple[Imitation, ...]:
        """The marks that a text imitates, in order."""
        folded, positions = _folded(text)
        return tuple(
            Imitation(positions[found.start()], positions[found.end() - 1] + 1, self._marks[found.lastindex - 1])
            for found in self._pattern.finditer(folded)
            if found.lastindex is not None
        )


def _alternatives(patterns: Iterable[tuple[str, str | None]]) -> str:
    """One of the patterns, a group each."""
    return "(?:" + "|".join(f"({pattern})" for _, pattern in patterns if pattern) + ")"


def _words(mark: str) -> list[str]:
    return [re.escape(word) for word in _WORD.findall(_folded(mark)[0])]


def _enclosed(mark: str) -> str | None:
    """A pattern for what begins with punctuation: several words or a special token in brackets, or ``### User``."""
    words = _words(mark)
    if mark.startswith("<|") and words:
        return f"{_LEFT}{_GAP}{_GAP.join(words)}{_GAP}{_RIGHT}+"
    if len(words) > 1:
        return f"{_LEFT}{_GAP.join(words)}{_RIGHT}"
    if words and not _WORD.match(mark) and _WORD.match(mark[-1]):
        return f"{re.escape(mark[0])}{_GAP}{words[0]}{_END}"
    return None


def _bare(mark: str) -> str | None:
    """A pattern for a mark without its brackets: several words, or one with its punctuation. None for any other.

    Words that are joined by single hyphens, and nothing else, are how a neutralised mark looks. (Some of its words may
    be one to another mark: UNSAFECONTENT.)
    """
    words = _words(mark)
    if len(words) > 1:
        neutral = rf"(?=[^\W_]+-){'-?'.join(words)}{_END}"
        return f"(?!{neutral}){_GAP.join(words)}{_END}"
    right = mark.strip()[-1:]
    if not words or _WORD.match(right):
        return None
    return f"{words[0]}(?:{_GAP}{re.escape(right)})+"


@lru_cache(maxsize=64)
def _marks(lines: tuple[str, ...], special_tokens: tuple[str, ...]) -> Marks:
    return Marks(lines, special_tokens)


def template_marks(texts: Iterable[str], special_tokens: Iterable[str]) -> Marks:
    """The marks of a rendered prompt.

    Args:
        texts: what its template wrote, special tokens included.
        special_tokens: those among them.
    """
    tokens = tuple(sorted(set(special_tokens)))
    cut = re.compile("|".join([*map(re.escape, tokens), _LINE_BREAKS]))
    return _marks(tuple(sorted({line.strip() for text in texts for line in cut.split(text)})), tokens)


def _beginning(line: str) -> str:
    """The first words of a line, with the punctuation around them if that is all of it."""
    words = list(_WORD.finditer(line))
    return line if len(words) <= _WORDS_OF_A_LINE else line[words[0].start() : words[_WORDS_OF_A_LINE - 1].end()]


def _folded(text: str) -> tuple[str, list[int]]:
    """A text in folded form, and where each of its characters comes from."""
    if text.isascii() and not _UNSEEN_ASCII.search(text):
        return text.lower(), list(range(len(text)))
    table = {character: _folded_character(character) for character in set(text)}
    parts = [table[character] for character in text]
    return "".join(parts), [index for index, part in enumerate(parts) for _ in part]


def _folded_character(character: str) -> str:
    seen = (plain for plain in unicodedata.normalize("NFKD", character) if _is_seen(plain))
    return "".join(seen).translate(_PLAIN).casefold()


def _is_seen(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cc":
        return character in _SEEN_CONTROLS
    return category not in ("Cf", "Mn", "Me") and character not in _HANGUL_FILLERS
