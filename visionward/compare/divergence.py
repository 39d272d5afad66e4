"""Distances between the numbers of a candidate and those of the reference."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Logits: TypeAlias = npt.NDArray[np.float32]


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities in float64."""
    from scipy.special import log_softmax as scipy_log_softmax  # noqa: PLC0415 - in the extra

    return np.asarray(scipy_log_softmax(logits.astype(np.float64)))


def kl_divergence(reference: Logits, candidate: Logits) -> float:
    """KL(reference || candidate) of two next-token distributions, in nats, over all rows."""
    p, q = log_softmax(reference), log_softmax(candidate)
    # Rounding may give a small negative number for equal distributions.
    return max(0.0, float(np.sum(np.exp(p) * (p - q))))


def relative_error(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> float:
    """Norm of the difference over the norm of the reference."""
    scale = float(np.linalg.norm(reference.astype(np.float64)))
    return float(np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))) / max(scale, 1e-300)
