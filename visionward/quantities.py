"""Sizes, durations and shares as text, the same in messages, reports and the command line. Standard library only."""

_SIZE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def size_text(nbytes: float) -> str:
    """Bytes with three significant digits: ``4.92 GB``, ``123 MB``, ``7 bytes``. Units are powers of 1000."""
    for unit, factor in _SIZE_UNITS:
        # What rounds up to 1000 belongs to the next unit.
        if nbytes >= factor * 0.9995:
            return f"{_three_digits(nbytes / factor)} {unit}"
    return f"{nbytes:.0f} byte{'' if round(nbytes) == 1 else 's'}"


def duration_text(milliseconds: float) -> str:
    """A duration for reading: ``412 ms``, ``74.0 s``."""
    return f"{milliseconds:.0f} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.1f} s"


def measured_text(milliseconds: float) -> str:
    """A duration for tables of measurements: ``0.42 ms``, ``113 ms``, ``12.3 s``."""
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.2f} ms"


def time_left_text(seconds: float) -> str:
    """An estimate of the time that is left: ``12 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def percent_text(share: float, decimals: int = 0) -> str:
    """A share of one in percent: ``31 %``."""
    return f"{100 * share:.{decimals}f} %"


def count_text(count: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun: ``1 tile``, ``4 tiles``, ``1,024 tokens``."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
