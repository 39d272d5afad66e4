"""Computing an importance matrix: sums of the inputs of every matrix while calibration samples are evaluated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, QuantizeError, VisionwardError
from visionward.formats.imatrix_file import Statistics
from visionward.progress import OnProgress, ProgressCounter
from visionward.runtime.engine import Engine
from visionward.runtime.guard.answer import SAFE, UNSAFE
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.prompt import tokenize
from visionward.runtime.guard.samples import Sample
from visionward.runtime.images.preprocess import Tiles

# The head is excluded, as in llama.cpp's own tool: it gets more bits in every type, and its input is the scaled output
# of one norm.
_EXCLUDED = "output.weight"


class ActivationSums:
    """Sums of squares of each column of each matrix's input. An instance is an observer for ``Engine.observed``."""

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def __call__(self, name: str, rows: npt.NDArray[np.float32]) -> None:
        """Add the input rows (rows, columns) of a matrix.

        Raises:
            ComputeError: if they are not finite.
        """
        if name == _EXCLUDED:
            return
        squares = np.square(rows).sum(axis=0, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise ComputeError(f"the input of {name} is not finite; the model file may be damaged.")
        self._sums[name] = self._sums.get(name, 0.0) + squares
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    @property
    def statistics(self) -> dict[str, Statistics]:
        """The sums so far."""
        return {name: Statistics(sums, self._rows[name]) for name, sums in self._sums.items()}


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix and the amount of data behind it.

    Attributes:
        statistics: matrix name to sums.
        prompts: number of prompts; a conversation counts once for each picture that the guard would judge.
        tokens: number of tokens of all prompts.
    """

    statistics: dict[str, Statistics]
    prompts: int
    tokens: int


def compute_importance(
    engine: Engine, samples: Sequence[Sample], on_progress: OnProgress | None = None
) -> ImportanceMatrix:
    """Evaluate samples, with their right answers if known, and sum up the inputs of every matrix.

    Args:
        engine: a loaded pair.
        samples: images and conversations like those that the guard will judge.
        on_progress: called after each sample.

    Raises:
        QuantizeError: if a sample cannot be evaluated.
    """
    template = ChatTemplate(engine.model.chat_template, special_tokens=engine.model.special_tokens)
    sums = ActivationSums()
    prompts = tokens = 0
    counter = ProgressCounter(on_progress, "samples", len(samples), "samples")
    with engine.observed(sums):
        for sample in samples:
            try:
                for conversation in sample.conversation.per_image():
                    for tiles in _pictures(engine, conversation):
                        tokens += _read(engine, template, conversation, tiles, _answer(sample))
                        prompts += 1
            except VisionwardError as error:
                raise QuantizeError(f"sample {sample.id}: {error}") from error
            counter.advance(1)
    return ImportanceMatrix(sums.statistics, prompts, tokens)


def _answer(sample: Sample) -> str:
    """The right answer; empty if it is not known."""
    if sample.unsafe is None or (sample.unsafe and not sample.categories):
        return ""
    codes = sorted(sample.categories or (), key=lambda code: int(code[1:]))
    return f"{UNSAFE}\n{','.join(codes)}" if sample.unsafe else SAFE


def _pictures(engine: Engine, conversation: Conversation) -> Iterable[Tiles | None]:
    """The pictures of a conversation's image that are judged; one None without an image."""
    return engine.pictures(conversation.images[0]) if conversation.images else [None]


def _read(engine: Engine, template: ChatTemplate, conversation: Conversation, tiles: Tiles | None, answer: str) -> int:
    """Evaluate one prompt and its answer; the number of tokens."""
    tokens = [*tokenize(template.render(conversation), engine.model), *(engine.model.encode(answer) if answer else [])]
    engine.run(partial(_compute, engine, tokens, tiles))
    return len(tokens)


def _compute(engine: Engine, tokens: list[int], tiles: Tiles | None) -> None:
    with engine.evaluate(tiles, use_cache=False) as evaluation:
        # With every position's logits, the last layer computes every row too.
        evaluation.prefill(tokens, every_position=True)
