"""A rendered prompt, in which special tokens are distinct from text, and its token ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from visionward.errors import ModelFileError

BEGIN_TOKEN = "<|begin_of_text|>"  # noqa: S105 - a token of the vocabulary, not a secret
IMAGE_TOKEN = "<|image|>"  # noqa: S105
END_HEADER_TOKEN = "<|end_header_id|>"  # noqa: S105
END_OF_TURN_TOKEN = "<|eot_id|>"  # noqa: S105

# The special tokens in chat templates of the Llama 3 family. A model file's own list can be given instead.
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


@dataclass(frozen=True)
class Special:
    """A special token that the template put into the prompt."""

    text: str


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        pieces: special tokens, and runs of text between them. A run may contain text that looks like a special token.
            A user wrote that text, so it is tokenized as plain text.
        warnings: what the user must know about how the prompt was made, one sentence each.
        template_texts: what the template wrote between the texts of users and of a custom policy.
    """

    pieces: tuple[Special | str, ...]
    warnings: tuple[str, ...] = ()
    template_texts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt as one text for people to read. Special tokens are not distinct from text in it."""
        return "".join(piece.text if isinstance(piece, Special) else piece for piece in self.pieces)


class Tokenizer(Protocol):
    """What `tokenize` needs."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The id of each special token."""

    def encode(self, text: str) -> list[int]:
        """The token ids of plain text, without special tokens around them."""


def tokenize(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The token ids of a prompt. Each run of text between two special tokens is tokenized as a whole.

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
            raise ModelFileError(f"the vocabulary lacks the special token {piece.text}, which the prompt needs")
    return ids
