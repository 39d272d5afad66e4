"""A guard that can be made to look at an image again, and to decode for as long as one likes."""

import time
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any

from visionward.errors import ComputeError
from visionward.runtime.decoder.cross_attention import ImageMemory
from visionward.runtime.engine import Engine
from visionward.runtime.guard.answer import Logits
from visionward.runtime.guard.guard import Guard
from visionward.runtime.guard.judgement import milliseconds_since
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.preprocess import Tiles


class _ForgetfulEngine(Engine):
    """An engine that can be told to forget every image before it looks at the next."""

    forgets = False

    def image_memory(self, tiles: Tiles) -> AbstractContextManager[ImageMemory]:
        if self.forgets:
            self._images.close()
        return super().image_memory(tiles)


class BenchmarkGuard:
    """A guard with the image cache that every guard has, for ``visionward.diagnose.benchmark``.

    Args:
        text_gguf: the text file.
        mmproj_gguf: the mmproj file of the same conversion.
        options: of ``Engine``.

    Raises:
        VisionwardError: whatever loading a guard raises.
    """

    def __init__(self, text_gguf: str | PathLike[str], mmproj_gguf: str | PathLike[str], **options: Any) -> None:
        self.engine = _ForgetfulEngine(text_gguf, mmproj_gguf, **options)
        try:
            self._guard = Guard(self.engine)
        except BaseException:
            self.engine.close()
            raise

    @property
    def device(self) -> str:
        """What it computes on."""
        return self.engine.device_name

    @property
    def threads(self) -> int:
        """CPU threads that it computes with."""
        return self.engine.threads

    def first_look(self, image: ImageSource, prompt: str) -> Verdict:
        """Classify an image as if it had never been seen.

        Raises:
            ComputeError: if it was taken from the image cache all the same; such times would be worthless.
        """
        known = self.engine.image_cache.hits
        self.engine.forgets = True
        try:
            verdict = self._guard.classify(image=image, prompt=prompt)
        finally:
            self.engine.forgets = False
        if self.engine.image_cache.hits != known:
            raise ComputeError("the image was not encoded but taken from the image cache: a bug.")
        return verdict

    def second_look(self, image: ImageSource, prompt: str) -> Verdict | None:
        """Classify the image of the last look again; None if the image cache did not hold it."""
        if not self.engine.image_cache.entries:
            return None
        known = self.engine.image_cache.hits
        verdict = self._guard.classify(image=image, prompt=prompt)
        return verdict if self.engine.image_cache.hits > known else None

    def token_times(self, image: ImageSource, prompt: str, count: int) -> list[float]:
        """Milliseconds of each of ``count`` tokens, decoded one at a time after the prompt.

        A safe verdict decodes nothing, so the decoder is made to go on, greedily, from where the verdict is read. The
        first token prepares the graph of one row and is not counted.
        """
        times: list[float] = []

        def decode(logits: Logits) -> None:
            for _ in range(count + 1):
                start = time.perf_counter()
                logits = self.engine.decoder.extend([int(logits.argmax())])
                times.append(milliseconds_since(start))

        self._guard.classify(image=image, prompt=prompt, observe=decode)
        return times[1:]

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self.engine.close()
