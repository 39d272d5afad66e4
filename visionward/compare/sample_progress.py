"""How far a model is with its samples."""

import logging

from visionward.progress import OnProgress, ProgressCounter

logger = logging.getLogger(__name__)


def sample_progress(on_progress: OnProgress | None, model: str, done: int, total: int) -> ProgressCounter:
    """A counter of the samples that a model judged, with its name as the stage.

    Args:
        on_progress: the callback; None if nobody waits.
        model: name of the model.
        done: samples that an earlier run judged.
        total: samples of the comparison.
    """
    logger.info("%s: %d samples%s", model, total, f", {done} of them by an earlier run" if done else "")
    return ProgressCounter(on_progress, model, total, "samples", done)
