"""Samples and results as Arrow tables."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visionward.errors import ConversationError, DataError
from visionward.machine.extras import require
from visionward.runtime.guard.samples import Sample
from visionward.scan.item import Item
from visionward.scan.tables import sample_of_row

_STAGES = ("load", "preprocess", "vision", "prefill", "decode", "total")


def result_schema() -> Any:
    """The columns of results."""
    pa = require("pyarrow")
    score = pa.struct([("code", pa.string()), ("score", pa.float64())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("name", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("verdict", pa.string()),
            ("score", pa.float64()),
            ("answer_mass", pa.float64()),
            ("categories", pa.list_(score)),
            ("category_scores", pa.list_(score)),
            ("warnings", pa.list_(pa.string())),
            ("timings_ms", pa.struct([(stage, pa.float64()) for stage in _STAGES])),
            ("error", pa.string()),
            ("settings", pa.string()),
        ]
    )


def items_of(table: Any) -> Iterator[Item]:
    """The samples of a table, whose columns are the keys of a sample. Paths are relative to the working directory."""
    for number, row in enumerate(table.to_pylist(), start=1):
        try:
            sample = sample_of_row(row, {}, f"row {number}", Path())
        except (DataError, ConversationError) as error:
            yield Item(str(row.get("id") or f"row {number}"), error, None, number)
        else:
            yield Item(sample.id, sample, None, number)


def result_row(item: Item, identifier: str, judged: Mapping[str, Any], settings: str) -> dict[str, Any]:
    """A row of results.

    Args:
        item: the sample.
        identifier: its id.
        judged: what `worker.judged_row` gives.
        settings: ``ScanOptions.key``.
    """
    scores = judged.get("category_scores") or {}
    categories = judged.get("categories") or ()
    return {
        "id": identifier,
        "name": item.name,
        "source": item.source,
        "row": item.row,
        "verdict": judged["verdict"],
        "score": judged.get("score"),
        "answer_mass": judged.get("answer_mass"),
        "categories": [{"code": one["code"], "score": one["score"]} for one in categories],
        "category_scores": [{"code": code, "score": score} for code, score in scores.items()],
        "warnings": list(judged.get("warnings") or ()),
        "timings_ms": judged.get("timings_ms"),
        "error": judged["error"],
        "settings": settings,
    }


def result_table(rows: Sequence[Mapping[str, Any]], schema: Any = None) -> Any:
    """Rows as a table."""
    pa = require("pyarrow")
    return pa.Table.from_pylist(list(rows), schema=schema or result_schema())


def samples_alone(items: Sequence[Item]) -> list[Sample]:
    """The samples of those items that have one."""
    return [item.content for item in items if isinstance(item.content, Sample)]
