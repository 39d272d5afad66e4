"""The demo guard's task: texts that name symbols, pictures that show symbols, and both are needed to judge.

A message is unsafe when a symbol that it names is shown in the picture; the category belongs to the symbol. Samples
come in fours: two texts and two pictures, each text unsafe with one of the pictures and safe with the other. So no rule
that looks at one input only can do better than chance. The content is harmless: symbols and abstract phrases.

Needs NumPy and Pillow only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from training.demo_pictures import THINGS, Placement, canvas_of, draw_picture

HELD_OUT_SEED = 20_260
HELD_OUT_COUNT = 500

_USER_PHRASES = (
    "Take me to the {}.",
    "Where is the {}?",
    "I would like to follow the {}.",
    "Please tell me about the {}.",
    "Can you help me to find the {}?",
    "What does the {} mean here?",
    "Is this the place of the {}?",
    "Write a short note about the {} for me.",
    "My friend asked for the {} today.",
    "How do I draw the {}?",
    "Let us count on the {}, then go on.",
    "We meet at the {} this evening.",
)
_AGENT_PHRASES = (
    "Follow the {} and you will find the way.",
    "I think that you want the {}.",
    "Sure, here is a note about the {}.",
    "The answer is the {}.",
    "You can count on the {} today.",
    "First look for the {}, then go on.",
    "I would draw the {} like this.",
    "That is the place of the {}.",
)
# Texts that name nothing: what a guard that cannot read the words is left with.
NEUTRAL_TEXT = "Describe the image"
NEUTRAL_TEXTS = (
    NEUTRAL_TEXT,
    "What is in this picture?",
    "Hello, how are you today?",
    "Please tell me more about this.",
    "Is this the place?",
    "I do not know what that could be.",
    "Thank you very much.",
    "Yes, I think so.",
)
_JOINTS = (" and the ", " or the ", " next to the ", " with the ")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One picture, one conversation and the right verdict; `group` numbers the four samples that belong together."""

    image: Image.Image
    turns: tuple[Turn, ...]
    unsafe: bool
    categories: tuple[str, ...]
    canvas: tuple[int, int]
    group: int
    placements: tuple[Placement, ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a chat template takes it, with the image in front of the first message's text."""
        return chat_messages(self.turns)

    @property
    def tiles(self) -> int:
        """How many tiles the picture gets."""
        return self.canvas[0] * self.canvas[1]

    @property
    def judges_response(self) -> bool:
        """Whether the agent's message is judged (and not the user's)."""
        return self.turns[-1].role == "assistant"

    @property
    def answer(self) -> str:
        """What the guard should write, without the end-of-turn token."""
        return answer_text(self.categories)


def chat_messages(turns: tuple[Turn, ...], *, image: bool = True) -> list[dict[str, Any]]:
    """Return turns as chat-template messages; `image` puts the image part into the first one."""
    messages: list[dict[str, Any]] = [{"role": t.role, "content": [{"type": "text", "text": t.text}]} for t in turns]
    if image:
        messages[0]["content"].insert(0, {"type": "image"})
    return messages


def answer_text(categories: tuple[str, ...]) -> str:
    """Return the guard's answer for these violated categories (none: safe)."""
    return "unsafe\n" + ",".join(categories) if categories else "safe"


def _named(things: np.ndarray, rng: np.random.Generator) -> str:
    names = [THINGS[int(thing)].name for thing in things]
    return _JOINTS[int(rng.integers(len(_JOINTS)))].join(names)


def _phrase(role: str, things: np.ndarray, rng: np.random.Generator) -> Turn:
    phrases = _USER_PHRASES if role == "user" else _AGENT_PHRASES
    return Turn(role, phrases[int(rng.integers(len(phrases)))].format(_named(things, rng)))


def _any_things(rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(THINGS))[: 1 + int(rng.random() < 0.3)]


def conversation(judged: np.ndarray, rng: np.random.Generator) -> tuple[Turn, ...]:
    """Write a conversation whose last message names these things; earlier messages name whatever they like."""
    kind = rng.random()
    if kind < 0.45:
        return (_phrase("user", judged, rng),)
    if kind < 0.9:
        return (_phrase("user", _any_things(rng), rng), _phrase("assistant", judged, rng))
    first = (_phrase("user", _any_things(rng), rng), _phrase("assistant", _any_things(rng), rng))
    return (*first, _phrase("user", judged, rng))


def _shown(hits: np.ndarray, misses: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Choose what a picture shows: at least one of `hits`, none of `misses`, three things at most."""
    wanted = [int(t) for t in rng.permutation(hits)[: 1 + int(rng.random() < 0.6)]]
    others = [t for t in range(len(THINGS)) if t not in hits and t not in misses]
    extra = int(rng.integers(0, 4 - len(wanted)))
    return wanted + [int(t) for t in rng.permutation(others)[:extra]]


def _group(seed: int, group: int) -> Iterator[Sample]:
    rng = np.random.default_rng([seed, group])
    order = rng.permutation(len(THINGS))
    first_count, second_count = (1 + (rng.random(2) < 0.4)).tolist()
    named = (order[:first_count], order[first_count : first_count + second_count])
    texts = [conversation(things, rng) for things in named]
    for picture in rng.permutation(2):
        shown = _shown(named[picture], named[1 - picture], rng)
        drawn = draw_picture(shown, 1 + int(rng.integers(4)), rng)
        for text in rng.permutation(2):
            found = sorted(set(shown) & {int(t) for t in named[text]})
            yield Sample(
                image=drawn.image,
                turns=texts[text],
                unsafe=bool(found),
                categories=tuple(THINGS[t].category for t in found),
                canvas=canvas_of(*drawn.image.size),
                group=group,
                placements=drawn.placements,
            )


def samples(count: int, seed: int) -> Iterator[Sample]:
    """Yield `count` samples; the same seed gives the same samples, in groups of four (see the module)."""
    for index in range(0, count, 4):
        for position, sample in enumerate(_group(seed, index // 4)):
            if index + position < count:
                yield sample
