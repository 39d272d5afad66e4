"""The version is in one place, and the changes begin with it."""

import re
from pathlib import Path

from visionward.compare import journal, report_json
from visionward.diagnose import benchmark_report
from visionward.formats import mmproj_format, onnx_format
from visionward.scan import results

ROOT = Path(__file__).parents[1]


def test_the_newest_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version


def test_the_versions_of_the_formats():
    changes = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    assert (
        f"Formats: GGUF pair {mmproj_format.FORMAT_VERSION}, ONNX tower {onnx_format.FORMAT_VERSION}, journal of a "
        f"comparison {journal._VERSION}, report of a comparison {report_json.FORMAT}, benchmark "
        f"{benchmark_report.FORMAT_VERSION}, results of a scan {results._FORMAT_VERSION}."
    ) in changes
