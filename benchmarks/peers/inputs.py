"""The inputs of all contestants: `python -m benchmarks.peers.inputs CHECKPOINT OUT.json [--tokens 254]`.

Writes a prompt of exactly so many tokens, as visionward renders it: its user's text, its token ids, and the rendered
text for those who tokenize themselves. Images are drawn from a seed. Run it where visionward is installed; the rest of
this file needs numpy and Pillow alone.
"""

import argparse
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGE_TOKEN = "<|image|>"  # noqa: S105 - a token of the vocabulary, not a secret
# Sizes of images in pixels, (high, wide), by the number of tiles that they take.
SIZES = {1: (500, 500), 4: (1000, 1100)}
WORDS = (" in", " the", " policy", " of", " a", " conversation", " with", " categories")


@dataclass(frozen=True)
class Inputs:
    """A prompt.

    Attributes:
        user: what the user says.
        text: the rendered prompt, special tokens written out.
        tokens: its ids.
        image_position: where the image token is among them.
    """

    user: str
    text: str
    tokens: list[int]
    image_position: int


def image(tiles: int, seed: int) -> Image.Image:
    """A picture: coloured squares, the same for the same seed."""
    high, wide = SIZES[tiles]
    squares = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(squares).resize((wide, high), Image.Resampling.BICUBIC)


def image_png(tiles: int, seed: int) -> bytes:
    """The same as a PNG file's bytes."""
    buffer = io.BytesIO()
    image(tiles, seed).save(buffer, "PNG")
    return buffer.getvalue()


def read_inputs(path: Path) -> Inputs:
    """A prompt that was written before."""
    return Inputs(**json.loads(path.read_text(encoding="utf-8")))


class _CheckpointTokenizer:
    """A checkpoint's tokenizer, as visionward's prompts need it."""

    def __init__(self, checkpoint: Path) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - not everywhere where images are drawn

        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: number for number, token in added.items()}

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def render(user: str) -> Any:
    """The prompt for a user's text with an image."""
    from visionward.runtime.guard.chat_template import ChatTemplate  # noqa: PLC0415
    from visionward.runtime.guard.conversation import Conversation  # noqa: PLC0415

    return ChatTemplate().render(Conversation.from_prompt(user, None, image(1, 0)))


def make_inputs(checkpoint: Path, count: int) -> Inputs:
    """A prompt of exactly so many tokens.

    Raises:
        ValueError: if the template alone is longer, or no text gives exactly this number.
    """
    from visionward.runtime.guard.prompt import tokenize  # noqa: PLC0415

    tokenizer = _CheckpointTokenizer(checkpoint)
    user, found = "Describe", 0
    for number in range(4 * count):
        prompt = render(user)
        tokens = tokenize(prompt, tokenizer)
        found = len(tokens)
        if found >= count:
            break
        user += WORDS[number % len(WORDS)]
    if found != count:
        raise ValueError(f"the shortest prompt of at least {count} tokens has {found}.")
    return Inputs(user, prompt.text, tokens, tokens.index(tokenizer.special_tokens[IMAGE_TOKEN]))


def write_inputs(checkpoint: Path, out: Path, count: int) -> Inputs:
    """Make a prompt and keep it."""
    inputs = make_inputs(checkpoint, count)
    out.write_text(json.dumps(asdict(inputs)), encoding="utf-8")
    return inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=254)
    options = parser.parse_args()
    inputs = write_inputs(options.checkpoint, options.out, options.tokens)
    print(f"{options.out}: {len(inputs.tokens)} tokens, the image is number {inputs.image_position}")


if __name__ == "__main__":
    main()
