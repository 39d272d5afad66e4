"""A benchmark, and a comparison of two, as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from visionward.cli.error_group import one_line
from visionward.cli.table import row, table
from visionward.diagnose.benchmark_comparison import STATISTICS, Comparison
from visionward.quantities import count_text, measured_text, size_text

Values = Mapping[str, Any]

_ROWS = {
    "load": "load",
    "preprocess": "preprocessing",
    "vision": "vision",
    "prefill": "prefill",
    "decode": "decode",
    "total": "total",
    "repeat_total": "repeat total",
    "decode_token": "decode, per token",
}
_RATES = {
    "vision_tiles_per_s": ("vision", "tiles/s"),
    "prefill_tokens_per_s": ("prefill", "tokens/s"),
    "decode_tokens_per_s": ("decode_token", "tokens/s"),
}
_MEMORY = {"total": "peak memory", "anonymous": "  allocated", "file": "  mapped files"}
_MAX_VALUE = 60
_NAME_WIDTH = 19
# On narrower terminals there are no tables.
_TABLE_WIDTH = 72
# Other programs that keep fewer cores busy hardly change the times.
_BUSY_CORES = 0.15


def benchmark_lines(values: Values, columns: int | None = None) -> Iterator[str]:
    """Environment, times and memory of a benchmark.

    Args:
        values: as ``Benchmark.to_dict`` gives them.
        columns: width of the terminal; None for any width.
    """
    yield from _environment_lines(values["environment"])
    yield ""
    rates = {
        name: f"{_short(values['rates'][rate])} {unit}"
        for rate, (name, unit) in _RATES.items()
        if rate in values["rates"]
    }
    if not values["environment"]["verdict"]["decoded_tokens"]:
        rates["decode"] = "nothing decoded"
    rows = [
        [_ROWS.get(name, name), *(measured_text(spread[statistic]) for statistic in STATISTICS), rates.get(name, "")]
        for name, spread in values["times_ms"].items()
    ]
    if columns is None or columns >= _TABLE_WIDTH:
        yield from table(["", *STATISTICS, "median rate"], rows)
    else:
        for name, least, median, p95, rate in rows:
            yield _row(name, f"{median} (min {least}, p95 {p95}){rate and f', {rate}'}")
    yield ""
    peaks = values["peak_memory_bytes"]
    for name, text in _MEMORY.items():
        yield _row(text, "unknown" if peaks[name] is None else size_text(peaks[name]))
    if gpu_memory := values.get("gpu_memory_bytes"):
        yield _row("GPU memory", size_text(gpu_memory))
    if _busy(values):
        yield ""
        yield (
            f"Note: other programs kept {values['other_cores']:.1f} cores busy meanwhile, so the times may be too long."
        )


def _busy(values: Values) -> bool:
    return (values.get("other_cores") or 0) >= _BUSY_CORES


def _environment_lines(facts: Values) -> Iterator[str]:
    machine, library, settings, image = facts["machine"], facts["library"], facts["settings"], facts["image"]
    for name in ("text", "mmproj"):
        file = facts[name]
        yield _row(name, f"{file['file']} ({file['file_type'] or 'mixed types'}, {size_text(file['nbytes'])})")
    name = "a synthetic picture" if image["name"] == "synthetic" else image["name"]
    tiles = count_text(image["tiles"], "tile")
    yield _row("image", f"{name}, {image['width']} x {image['height']} pixels, {tiles}")
    answer = facts["verdict"]
    decoded = f", {count_text(answer['decoded_tokens'], 'token')} decoded" if answer["decoded_tokens"] else ""
    yield _row("prompt", f"{count_text(facts['prompt']['tokens'], 'token')}; verdict {answer['verdict']}{decoded}")
    yield _row("processor", f"{machine['processor']}, {count_text(machine['physical_cores'], 'core')}")
    threads = count_text(settings["threads"], "thread")
    kernels = f", {settings['kernels']} kernels" if settings["device"] == "CPU" else ""
    yield _row("computed on", f"{settings['device']}{kernels}, {threads}; vision tower on {settings['vision_backend']}")
    ggml = f"ggml {library['ggml_version'] or 'unknown'}, commit {library['ggml_commit'] or 'unknown'}"
    yield _row("library", f"llama-cpp-python {library['llama-cpp-python']}, {ggml}")
    yield _row("compiler", library["compiler"] or "unknown")
    yield _row("build", library["build"] or "unknown")
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        if library[package] is not None:
            yield _row(package, library[package])
    yield _row("runs", f"{settings['runs']} after {settings['warmup']} for warm-up")


def _row(name: str, value: object) -> str:
    return row(name, value, _NAME_WIDTH)


def comparison_lines(
    old: Values, new: Values, comparison: Comparison, name: str, columns: int | None = None
) -> Iterator[str]:
    """A comparison, with everything in the environment that differs.

    Args:
        old: the older benchmark's plain values.
        new: the newer one's.
        comparison: of the two.
        name: of the older one's file.
        columns: width of the terminal; None for any width.
    """
    yield f"Against {name} (ratios are new / old)"
    yield ""
    rows = []
    for time, ratios in comparison.ratios["times_ms"].items():
        sides = [side["times_ms"].get(time) for side in (old, new)]
        medians = ["-" if side is None else measured_text(side["median"]) for side in sides]
        texts = [ratio_text(ratios[statistic]) for statistic in STATISTICS]
        rows.append([one_line(_ROWS.get(time, time)), *medians, *texts])
    for rate, ratios in comparison.ratios["rates"].items():
        time, unit = _RATES.get(rate, (rate, ""))
        sides = ["-" if (value := side["rates"].get(rate)) is None else _short(value) for side in (old, new)]
        rows.append([one_line(f"{_ROWS.get(time, time)}, {unit}"), *sides, "", ratio_text(ratios["value"]), ""])
    for peak, ratios in comparison.ratios["peak_memory_bytes"].items():
        values = [side["peak_memory_bytes"].get(peak) for side in (old, new)]
        sides = ["-" if value is None else size_text(value) for value in values]
        rows.append([_MEMORY.get(peak) or one_line(peak), *sides, "", ratio_text(ratios["value"]), ""])
    if columns is None or columns >= _TABLE_WIDTH:
        yield from table(["", "old", "new", *STATISTICS], rows)
    else:
        for label, before, after, _, ratio, _ in rows:
            yield _row(label, f"{before} -> {after}, ratio {ratio}")
    yield ""
    if _busy(old) and not _busy(new):
        yield f"Other programs kept {old['other_cores']:.1f} cores busy in the old run, so its times may be too long."
    if not comparison.differences:
        yield "The environment is the same: machine, library, settings, files, image, prompt and verdict."
        return
    yield "The environment differs, which may explain the ratios:"
    for difference in comparison.differences:
        yield f"  {one_line(difference.name)}: {_value(difference.old)} -> {_value(difference.new)}"


def ratio_text(ratio: float | None) -> str:
    """A ratio, or a dash if there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _value(value: object) -> str:
    text = "none" if value is None else one_line(str(value))
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."
