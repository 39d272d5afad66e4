"""A guard for benchmarks: it can encode an image again, and decode any number of tokens."""

import time
from os import PathLike
from typing import TYPE_CHECKING

from visionward.errors import ComputeError
from visionward.names import Kernels
from visionward.progress import OnProgress
from visionward.runtime.engine import Engine
from visionward.runtime.evaluation import milliseconds_since
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.guard import Guard
from visionward.runtime.guard.prompt import tokenize
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.images.images import ImageSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.engine_options import EngineKeywords


class BenchmarkGuard:
    """A guard with the image cache that every guard has, for ``visionward.diagnose.benchmark``.

    Args:
        text_gguf: the text file.
        mmproj_gguf: the mmproj file of the same conversion.
        on_progress: called while files are checked.
        options: of ``Engine``.

    Raises:
        VisionwardError: whatever loading a guard raises.
    """

    def __init__(
        self,
        text_gguf: str | PathLike[str],
        mmproj_gguf: str | PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        **options: "Unpack[EngineKeywords]",
    ) -> None:
        self.engine = Engine(text_gguf, mmproj_gguf, on_progress=on_progress, **options)
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

    @property
    def kernels(self) -> Kernels:
        """The CPU kernels of the text file's weights."""
        return self.engine.kernels

    def classify_new(self, image: ImageSource, prompt: str, on_progress: OnProgress | None = None) -> Verdict:
        """Classify an image that the image cache does not have.

        Raises:
            ComputeError: if it was taken from the image cache all the same; such times would be worthless.
        """
        self.engine.drop_images()
        hits = self.engine.image_cache.hits
        verdict = self._guard.classify(image=image, prompt=prompt, on_progress=on_progress)
        if self.engine.image_cache.hits != hits:
            raise ComputeError("the image was taken from the image cache instead of encoded; this is a bug.")
        return verdict

    def classify_again(self, image: ImageSource, prompt: str, on_progress: OnProgress | None = None) -> Verdict | None:
        """Classify the same image from the image cache; None if the cache could not hold it."""
        if not self.engine.image_cache.entries:
            return None
        hits = self.engine.image_cache.hits
        verdict = self._guard.classify(image=image, prompt=prompt, on_progress=on_progress)
        return verdict if self.engine.image_cache.hits > hits else None

    def token_times(self, image: ImageSource, prompt: str, count: int) -> list[float]:
        """Milliseconds of each of ``count`` tokens, decoded one at a time after the prompt.

        A safe verdict decodes nothing, so the decoder continues greedily from where the verdict is read. The first
        token prepares the graph of one row and is not counted.
        """
        conversation = Conversation.from_prompt(prompt, None, image)
        template = ChatTemplate(self.engine.model.chat_template, special_tokens=self.engine.model.special_tokens)
        tokens = tokenize(template.render(conversation), self.engine.model)
        tiles = self.engine.tile(image)

        def decode() -> list[float]:
            times: list[float] = []
            with self.engine.evaluate(tiles) as evaluation:
                logits = evaluation.prefill(tokens)
                for _ in range(count + 1):
                    start = time.perf_counter()
                    logits = evaluation.extend([int(logits.argmax())])
                    times.append(milliseconds_since(start))
            return times[1:]

        return self.engine.run(decode)

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self.engine.close()
