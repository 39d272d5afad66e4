"""One image in front of the decoder: prompts are evaluated behind it, and extended by the answer's tokens."""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from visionward.progress import OnProgress, Progress
from visionward.runtime.decoder.cross_attention import ImageKV
from visionward.runtime.decoder.decoder import Decoder, Logits


class Evaluation:
    """What ``Engine.evaluate`` gives: valid inside its ``with`` block, on the engine's own thread.

    Attributes:
        vision_ms: milliseconds that encoding the image took; next to nothing if the image cache had it.
        features: float32 (real tiles, tokens per tile, decoder width), after the projector, if they were asked for.
    """

    def __init__(
        self,
        decoder: Decoder,
        image: ImageKV | None,
        *,
        vision_ms: float = 0.0,
        features: npt.NDArray[np.float32] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._decoder = decoder
        self._image = image
        self._on_progress = on_progress
        self.vision_ms = vision_ms
        self.features = features

    def prefill(self, tokens: Sequence[int], *, every_position: bool = False) -> Logits:
        """Evaluate a prompt from an empty KV cache. With an image, exactly one token is ``<|image|>``.

        Args:
            tokens: the prompt's token ids.
            every_position: give the logits of every position instead of the last one.

        Returns:
            Logits over the head's real rows: (tokens, rows) or (rows,).

        Raises:
            ContextLengthError: if there are more tokens than the context holds.
            ComputeError: if llama.cpp fails, or a cross-attention layer was left out.
        """
        position = 0 if self._image is None else list(tokens).index(self._decoder.model.image_token_id)
        return self._decoder.prefill(
            tokens, self._image, position, every_position=every_position, on_tokens=self._on_tokens
        )

    def _on_tokens(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress("prompt", done, total, "tokens"))

    def extend(self, tokens: Sequence[int]) -> Logits:
        """Evaluate more tokens behind the prompt; the logits of the last one, (rows,)."""
        return self._decoder.extend(tokens)

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[Logits]:
        """Evaluate several continuations, each as if it were alone.

        Returns:
            For each continuation the logits after each of its tokens, (tokens, rows).
        """
        return self._decoder.branch(continuations)


def milliseconds_since(start: float) -> float:
    """Milliseconds since a reading of ``time.perf_counter``."""
    return (time.perf_counter() - start) * 1000
