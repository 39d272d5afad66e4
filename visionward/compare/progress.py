"""What a long run tells whoever waits for it."""

from typing import Protocol


class Progress(Protocol):
    """Told of every step."""

    def begin(self, model: str, done: int, total: int) -> None:
        """A model's turn begins; some of its samples may have been judged by an earlier run."""

    def advance(self, model: str) -> None:
        """A sample was judged."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Silent:
    """Nobody waits."""

    def begin(self, model: str, done: int, total: int) -> None:
        """Nothing."""

    def advance(self, model: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
