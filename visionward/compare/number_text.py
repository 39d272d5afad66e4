"""Statistics as text."""

from visionward.quantities import count_text


def p_text(value: float) -> str:
    """A p-value: ``< 0.001``, ``0.037``, ``0.42``."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def points_text(share: float) -> str:
    """A share in percentage points: ``2 points``."""
    number = f"{100 * share:.2g}"
    return count_text(1, "point") if number == "1" else f"{number} points"


def names_text(names: list[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
