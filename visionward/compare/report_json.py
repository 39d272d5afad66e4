"""The report as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from visionward.compare import published_figures
from visionward.compare.intervals import CONFIDENCE, RESAMPLES
from visionward.compare.models import GuardFiles
from visionward.compare.report import Report
from visionward.compare.results import ModelResults
from visionward.compare.times import BETWEEN_RUNS

# 3: min_flips was least_flips; environment, overview, class_sizes, independent and thresholds are new.
FORMAT = 3


def report_dict(report: Report, results: Sequence[ModelResults]) -> dict[str, Any]:
    """The report as plain values."""
    models = [
        {
            "name": result.model.name,
            "text": result.model.text.name,
            "mmproj": result.model.mmproj.name,
            "onnx_tower": None if result.model.tower is None else result.model.tower.name,
            "setting": result.model.setting,
        }
        if isinstance(result.model, GuardFiles)
        else {
            "name": result.model.name,
            "url": result.model.url,
            "model": result.model.model,
            "style": result.model.style,
        }
        for result in results
    ]
    values: dict[str, Any] = {
        "format": FORMAT,
        **asdict(report),
        "models": models,
        "method": {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "resampled": "groups",
            "between_runs": BETWEEN_RUNS,
        },
    }
    if report.quoted:
        values["quoted"] = {
            "source": published_figures.SOURCE,
            "caveat": published_figures.CAVEAT,
            "table_1": [asdict(row) for row in published_figures.TABLE_1],
            "table_2": published_figures.TABLE_2,
        }
    return values
