"""The worker: a table in, a table out, whatever runs it."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest
from scanned import PROMPT, rows_of

from visionward.runtime.engine_options import EngineOptions
from visionward.scan import Worker
from visionward.scan.inputs import Inputs
from visionward.scan.results import Results
from visionward.scan.scan import scan


@pytest.fixture
def batch(pictures):
    rows = [
        {"id": "one", "image": pictures[0].read_bytes(), "prompt": PROMPT},
        {"id": "two", "image": b"damaged", "prompt": PROMPT},
        {"id": "three", "image": None, "prompt": None},
        {"id": None, "image": None, "prompt": "What is this?"},
    ]
    return pa.Table.from_pylist(rows)


def test_a_table_in_and_a_table_out(batch, pictures, options, tmp_path):
    worker = pickle.loads(pickle.dumps(Worker(options)))  # noqa: S301 - our own
    found = worker(batch).to_pylist()
    assert [row["name"] for row in found] == ["one", "two", "three", "row 4"]
    assert [row["verdict"] is None for row in found] == [False, True, True, False]
    assert [row["error"] is None for row in found] == [True, False, False, True]
    assert "neither a prompt nor an image" in found[2]["error"]
    assert worker(batch.slice(0, 0)).num_rows == 0
    # Bit-equal to a scan on one machine, and under the same id.
    results = Results(tmp_path / "results.jsonl", options.key)
    scan(Inputs([pictures[0]], lambda _: PROMPT), results, options, 1)
    results.close()
    (row,) = rows_of(tmp_path / "results.jsonl")
    assert {key: row[key] for key in ("id", "score", "answer_mass")}.items() <= found[0].items()
    assert {one["code"]: one["score"] for one in found[0]["category_scores"]} == row["category_scores"]
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(worker)


@pytest.mark.parametrize(("alone", "kernels"), [(False, "plain"), (True, "auto")])
def test_workers_share_plain_weights_unless_alone(options, alone, kernels):
    assert EngineOptions(**Worker(options, alone=alone).options.engine).kernels == kernels
    packed = replace(options, engine={**options.engine, "kernels": "packed"})
    assert Worker(packed, alone=alone).options == packed


def test_importing_the_worker_imports_no_native_library_and_no_engine():
    code = "import json, sys; from visionward.scan import Worker; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    loaded = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert not {"llama_cpp", "ray", "pyarrow", "daft", "pyspark"} & set(loaded)
