"""The code of docs/scanning.md for other engines, run as it is written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scanned import PROMPT

from visionward.scan import ScanOptions, Worker

pytestmark = pytest.mark.ray
PAGE = Path(__file__).parents[2] / "docs" / "scanning.md"


def _run(name, folder):
    code = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (folder / "scan.py").write_text(code)
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, "scan.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return pq.read_table(folder / "results").to_pylist()


@pytest.fixture
def samples(tmp_path, pictures):
    images = [path.read_bytes() for path in pictures] + [b"damaged"]
    table = pa.table({"image": images, "prompt": [PROMPT] * len(images)})
    pq.write_table(table, tmp_path / "samples.parquet")
    expected = Worker(ScanOptions(None))(table).to_pylist()
    return tmp_path, {row["id"]: (row["verdict"], row["score"], row["error"]) for row in expected}


def test_daft(samples):
    pytest.importorskip("daft")
    folder, expected = samples
    found = [row["result"] for row in _run("daft", folder)]
    assert {row["id"]: (row["verdict"], row["score"], row["error"]) for row in found} == expected


def test_spark(samples):
    pytest.importorskip("pyspark")
    folder, expected = samples
    found = _run("spark", folder)
    assert {row["id"]: (row["verdict"], row["score"], row["error"]) for row in found} == expected
