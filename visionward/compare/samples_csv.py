"""Every sample with every model, as CSV."""

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from visionward.compare.datasets import Dataset
from visionward.compare.results import ModelResults

COLUMNS = (
    "set",
    "sample",
    "group",
    "label",
    "categories",
    "model",
    "verdict",
    "score",
    "answer_mass",
    "named",
    "flip",
    "kl",
    "vision_ms",
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "tiles",
    "prompt_tokens",
    "skipped",
)


def samples_csv(datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> str:
    """The table, with a header."""
    table = StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in _rows(datasets, results))
    return table.getvalue()


def _rows(datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> Iterator[dict[str, Any]]:
    """Every sample with every model, skipped ones too."""
    for dataset in datasets:
        for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
            base = results[0].judged.get(digest)
            for result in results:
                row: dict[str, Any] = {
                    "set": dataset.name,
                    "sample": sample.id,
                    "group": sample.group,
                    "label": {True: "unsafe", False: "safe", None: ""}[sample.unsafe],
                    "categories": " ".join(sorted(sample.categories or ())),
                    "model": result.model.name,
                }
                found = result.judged.get(digest)
                if found is None or found.reason is not None:
                    yield {**row, "skipped": "no answer was received" if found is None else found.reason}
                    continue
                times = found.times_ms or {}
                flipped = base is not None and base.reason is None and base.unsafe != found.unsafe
                yield {
                    **row,
                    "verdict": "no answer" if found.no_answer else "unsafe" if found.unsafe else "safe",
                    "score": found.score,
                    "answer_mass": found.answer_mass,
                    "named": " ".join(found.categories),
                    "flip": ("to unsafe" if found.unsafe else "to safe") if flipped else "",
                    "kl": found.kl,
                    "vision_ms": times["vision"] + times.get("preprocess", 0.0) if "vision" in times else None,
                    "prefill_ms": times.get("prefill"),
                    "decode_ms": times.get("decode"),
                    "total_ms": times.get("total"),
                    "tiles": found.tiles,
                    "prompt_tokens": found.prompt_tokens,
                }
        for left_out in dataset.left_out:
            yield {"set": dataset.name, "sample": left_out.id, "skipped": left_out.reason}


def _cell(value: Any) -> Any:
    """A value that no spreadsheet reads as a formula: ids and reasons come from other people's files."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
