"""Gathering an importance matrix: what goes into every matrix while calibration samples are being judged."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, QuantizeError, VisionwardError
from visionward.formats.imatrix_file import Statistics
from visionward.runtime.engine import Engine
from visionward.runtime.guard.answer import SAFE, UNSAFE
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.prompt import tokenize
from visionward.runtime.guard.samples import Sample
from visionward.runtime.images.preprocess import Tiles

# The head is left out, as llama.cpp's own tool does: it gets more bits in every type, and its input is that of one
# norm, scaled.
_LEFT_OUT = "output.weight"

# Is told after every sample: samples done, samples in all.
SampleProgress = Callable[[int, int], None]


class ActivationSums:
    """Sums of squares of every column of every matrix's input. Its instances are observers of an engine."""

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def __call__(self, name: str, rows: npt.NDArray[np.float32]) -> None:
        """Add rows (rows, columns) that a matrix is multiplied with.

        Raises:
            ComputeError: if they are not finite.
        """
        if name == _LEFT_OUT:
            return
        squares = np.square(rows).sum(axis=0, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise ComputeError(f"the input of {name} is not finite: the model file may be damaged.")
        self._sums[name] = self._sums.get(name, 0.0) + squares
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    @property
    def statistics(self) -> dict[str, Statistics]:
        """What was gathered so far."""
        return {name: Statistics(sums, self._rows[name]) for name, sums in self._sums.items()}


@dataclass(frozen=True)
class Gathered:
    """What came of it.

    Attributes:
        statistics: matrix name to sums.
        prompts: read in all; a conversation is read once for each picture that the guard would judge.
        tokens: of all of them.
    """

    statistics: dict[str, Statistics]
    prompts: int
    tokens: int


def gather(engine: Engine, samples: Sequence[Sample], progress: SampleProgress | None = None) -> Gathered:
    """Read samples, their right answers included where they are known, and gather what goes into every matrix.

    Args:
        engine: a loaded pair.
        samples: images and conversations like those that the guard will judge.
        progress: is told after every sample.

    Raises:
        QuantizeError: if a sample cannot be read.
    """
    template = ChatTemplate(engine.model.chat_template, special_tokens=engine.model.special_tokens)
    sums = ActivationSums()
    prompts = tokens = 0
    with engine.observed(sums):
        for done, sample in enumerate(samples, start=1):
            try:
                for conversation in sample.conversation.per_image():
                    for tiles in _pictures(engine, conversation):
                        tokens += _read(engine, template, conversation, tiles, _answer(sample))
                        prompts += 1
            except VisionwardError as error:
                raise QuantizeError(f"sample {sample.id}: {error}") from error
            if progress is not None:
                progress(done, len(samples))
    return Gathered(sums.statistics, prompts, tokens)


def _answer(sample: Sample) -> str:
    """What the guard should say; nothing where that is not known."""
    if sample.unsafe is None or (sample.unsafe and not sample.categories):
        return ""
    codes = sorted(sample.categories or (), key=lambda code: int(code[1:]))
    return f"{UNSAFE}\n{','.join(codes)}" if sample.unsafe else SAFE


def _pictures(engine: Engine, conversation: Conversation) -> Iterable[Tiles | None]:
    """What is judged of a conversation's image, picture by picture; one None without an image."""
    return engine.pictures(conversation.images[0]) if conversation.images else [None]


def _read(engine: Engine, template: ChatTemplate, conversation: Conversation, tiles: Tiles | None, answer: str) -> int:
    """Read one prompt and its answer; the number of tokens."""
    tokens = [*tokenize(template.render(conversation), engine.model), *(engine.model.encode(answer) if answer else [])]
    engine.run(partial(_compute, engine, tokens, tiles))
    return len(tokens)


def _compute(engine: Engine, tokens: list[int], tiles: Tiles | None) -> None:
    with engine.evaluate(tiles, use_cache=False) as evaluation:
        # With every position's logits, the last layer computes every row too.
        evaluation.prefill(tokens, every_position=True)
