"""The code of docs/scanning.md for Ray and other engines, run as it is written there, and its KubeRay job."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_program import COMMAND
from scanned import PROMPT

from visionward.cli.scan import scan
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


def test_ray_is_started_on_this_machine(tmp_path, pictures):
    pytest.importorskip("ray")
    text = PAGE.read_text(encoding="utf-8").partition("## Many machines")[2]
    (command,) = re.findall(r"^visionward scan .* --ray --out .*$", text, re.MULTILINE)
    (tmp_path / "photos").mkdir()
    for path in pictures:
        shutil.copy(path, tmp_path / "photos")
    assert command.startswith("visionward ")
    arguments = [*COMMAND, *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(pictures)} samples: " in done.stdout
    rows = pq.read_table(tmp_path / "results").to_pylist()
    table = pa.table({"image": [path.read_bytes() for path in pictures], "prompt": ["What is this?"] * len(pictures)})
    expected = Worker(ScanOptions(None))(table).to_pylist()
    assert {row["id"]: row["score"] for row in rows} == {row["id"]: row["score"] for row in expected}


# The fields of KubeRay's Go types (ray-operator/apis/ray/v1) that the job uses, with their types; * if required.
_GROUP = {"rayStartParams*": {str: str}, "template*": "V1PodTemplateSpec"}
_COUNTS = {"replicas": int, "minReplicas*": int, "maxReplicas*": int}
_JOB = {
    "apiVersion*": str,
    "kind*": str,
    "metadata*": {"name*": str},
    "spec*": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "rayClusterSpec": {
            "headGroupSpec*": _GROUP,
            "workerGroupSpecs": [{"groupName*": str, **_COUNTS, **_GROUP}],
        },
    },
}


def _check(schema, value, place):
    """Check a value against a schema of ours, or a class of the official Kubernetes client."""
    from kubernetes.client import models  # noqa: PLC0415 - not an extra

    if isinstance(schema, str) and schema.lower().startswith("list["):
        schema = [schema[5:-1]]
    if isinstance(schema, list):
        assert isinstance(value, list), place
        for number, one in enumerate(value):
            _check(schema[0], one, f"{place}[{number}]")
    elif schema == {str: str} or (isinstance(schema, str) and schema.lower().startswith("dict[")):
        assert all(isinstance(text, str) for pair in value.items() for text in pair), place
    elif isinstance(schema, dict):
        names = {name.rstrip("*"): one for name, one in schema.items()}
        assert set(value) <= set(names), place
        assert {name.rstrip("*") for name in schema if name.endswith("*")} <= set(value), place
        for name, one in value.items():
            _check(names[name], one, f"{place}.{name}")
    elif isinstance(schema, str) and schema.startswith("V1"):
        model = getattr(models, schema)
        names = {key: model.openapi_types[name] for name, key in model.attribute_map.items()}
        _check(names, value, place)
        model(**{name: value.get(key) for name, key in model.attribute_map.items()})  # ValueError if one is missing
    else:
        assert isinstance(value, {"str": str, "int": int, "bool": bool}.get(schema, schema)), place


def test_the_kuberay_job_has_the_fields_that_kuberay_and_kubernetes_know():
    pytest.importorskip("kubernetes")
    import yaml  # noqa: PLC0415 - of kubernetes

    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    _check(_JOB, job, "job")
    for change in (
        lambda spec: spec["rayClusterSpec"].update(workers=1),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(volume=1),
    ):
        broken = yaml.safe_load(text)
        change(broken["spec"])
        with pytest.raises(AssertionError):
            _check(_JOB, broken, "job")
    arguments = shlex.split(job["spec"]["entrypoint"])
    assert arguments[:2] == ["visionward", "scan"]
    options = {name for parameter in scan.params for name in parameter.opts}
    assert {one for one in arguments if one.startswith("--")} <= options
