"""A benchmark, and a comparison of two, as tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from visionward.cli.error_group import one_line
from visionward.diagnose.benchmark_comparison import STATISTICS, Comparison
from visionward.quantities import size_text

Values = Mapping[str, Any]

_ROWS = {
    "load": "load",
    "preprocess": "preprocessing",
    "vision": "vision",
    "prefill": "prefill",
    "decode": "decode",
    "total": "total",
    "repeat_total": "repeat total",
    "decode_token": "decode, a token",
}
_RATES = {
    "vision_tiles_per_s": ("vision", "tiles/s"),
    "prefill_tokens_per_s": ("prefill", "tokens/s"),
    "decode_tokens_per_s": ("decode_token", "tokens/s"),
}
_MEMORY = {"total": "peak memory", "anonymous": "  allocated", "file": "  mapped files"}
_LONGEST_VALUE = 60
# Below this, times are about those of a quiet machine.
_BUSY_CORES = 0.15


def benchmark_lines(values: Values) -> Iterator[str]:
    """Circumstances, times and memory of a benchmark, as ``Benchmark.to_dict`` gives it."""
    yield from _circumstance_lines(values["circumstances"])
    yield ""
    rates = {
        row: f"{_short(values['rates'][name])} {unit}"
        for name, (row, unit) in _RATES.items()
        if name in values["rates"]
    }
    if not values["circumstances"]["verdict"]["decoded_tokens"]:
        rates["decode"] = "nothing decoded"
    rows = [
        [_ROWS.get(row, row), *(time_text(spread[name]) for name in STATISTICS), rates.get(row, "")]
        for row, spread in values["times_ms"].items()
    ]
    yield from _table(["", *STATISTICS, "from the median"], rows)
    yield ""
    peaks = values["peak_memory_bytes"]
    for name, text in _MEMORY.items():
        yield f"{text:<17}{'unknown' if peaks[name] is None else size_text(peaks[name])}"
    if _busy(values):
        yield ""
        yield (
            f"Note: other programs kept {values['other_cores']:.1f} cores busy meanwhile, so the times may be too long."
        )


def _busy(values: Values) -> bool:
    return (values.get("other_cores") or 0) >= _BUSY_CORES


def _circumstance_lines(facts: Values) -> Iterator[str]:
    machine, library, settings, image = facts["machine"], facts["library"], facts["settings"], facts["image"]
    for name in ("text", "mmproj"):
        file = facts[name]
        yield _row(name, f"{file['file']} ({file['file_type'] or 'mixed types'}, {size_text(file['nbytes'])})")
    tiles = f"{image['tiles']} tile{'' if image['tiles'] == 1 else 's'}"
    name = "a synthetic picture" if image["name"] == "synthetic" else image["name"]
    yield _row("image", f"{name}, {image['width']} x {image['height']} pixels, {tiles}")
    answer = facts["verdict"]
    decoded = f", {answer['decoded_tokens']} tokens decoded" if answer["decoded_tokens"] else ""
    yield _row("prompt", f"{facts['prompt']['tokens']} tokens; verdict {answer['verdict']}{decoded}")
    cores = machine["physical_cores"]
    yield _row("processor", f"{machine['processor']}, {cores} core{'' if cores == 1 else 's'}")
    threads = f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"
    yield _row("computed on", f"{settings['device']}, {threads}; vision by {settings['vision_backend']}")
    ggml = f"ggml {library['ggml_version'] or 'unknown'}, commit {library['ggml_commit'] or 'unknown'}"
    yield _row("library", f"llama-cpp-python {library['llama-cpp-python']}, {ggml}")
    yield _row("compiler", library["compiler"] or "unknown")
    yield _row("build", library["build"] or "unknown")
    for name in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        if library[name] is not None:
            yield _row(name, library[name])
    yield _row("runs", f"{settings['runs']} after {settings['warmup']} for warm-up")


def _row(name: str, value: object) -> str:
    return f"{name:<17}{value}"


def comparison_lines(old: Values, new: Values, comparison: Comparison, name: str) -> Iterator[str]:
    """A comparison, with a warning for everything but the figures that differs.

    Args:
        old: the older benchmark's plain values.
        new: the newer one's.
        comparison: of the two.
        name: where the older one comes from.
    """
    yield f"Against {name} (ratios are new / old)"
    yield ""
    rows = []
    for row, ratios in comparison.ratios["times_ms"].items():
        sides = [side["times_ms"].get(row) for side in (old, new)]
        medians = ["-" if side is None else time_text(side["median"]) for side in sides]
        rows.append(
            [one_line(_ROWS.get(row, row)), *medians, *(ratio_text(ratios[statistic]) for statistic in STATISTICS)]
        )
    for rate, ratios in comparison.ratios["rates"].items():
        row, unit = _RATES.get(rate, (rate, ""))
        sides = ["-" if (value := side["rates"].get(rate)) is None else _short(value) for side in (old, new)]
        rows.append([one_line(f"{_ROWS.get(row, row)}, {unit}"), *sides, "", ratio_text(ratios["value"]), ""])
    for peak, ratios in comparison.ratios["peak_memory_bytes"].items():
        values = [side["peak_memory_bytes"].get(peak) for side in (old, new)]
        sides = ["-" if value is None else size_text(value) for value in values]
        rows.append([_MEMORY.get(peak) or one_line(peak), *sides, "", ratio_text(ratios["value"]), ""])
    yield from _table(["", "old", "new", *STATISTICS], rows)
    yield ""
    if _busy(old) and not _busy(new):
        yield f"Other programs kept {old['other_cores']:.1f} cores busy in the old run, so its times may be too long."
    if not comparison.differences:
        yield "Everything else is the same: machine, library, settings, files, image, prompt and verdict."
        return
    yield "Not the same, so the ratios may come from this as well:"
    for difference in comparison.differences:
        yield f"  {one_line(difference.name)}: {_value(difference.old)} -> {_value(difference.new)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "   ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip()


def time_text(milliseconds: float) -> str:
    """A time with three digits or more; no digits behind the point that the clock cannot vouch for."""
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.2f} ms"


def ratio_text(ratio: float | None) -> str:
    """A ratio, or a dash where there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _value(value: object) -> str:
    text = "none" if value is None else one_line(str(value))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
