"""Scans on a local Ray of two nodes: the same scores, and none lost or doubled whatever is killed."""

import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from odd_jobs import OddActor
from scanned import rows_of

from visionward.errors import ComputeError, DataError, VisionwardError
from visionward.scan.cluster import Cluster, scan_on_cluster
from visionward.scan.inputs import Inputs
from visionward.scan.options import ScanOptions
from visionward.scan.results import Results
from visionward.scan.scan import scan
from visionward.scan.shards import Shards

pytestmark = pytest.mark.ray
ACTOR = b"ray::MapWorker(MapBatches(ShardActor))"


@pytest.fixture(scope="module")
def nodes():
    """Two nodes with two CPUs each, whose processes can import the modules beside this file."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as LocalCluster  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        started = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 2})
        started.add_node(num_cpus=2)
        yield started
        started.shutdown()


def _samples(folder, count):
    """Texts, and every 50th with a picture."""
    path = folder / "samples.jsonl"
    shutil.copy(Path(__file__).parents[2] / "visionward/demo_guard/samples/picture_2_1_tiles.jpg", folder / "moon.jpg")
    rows = [{"prompt": f"How do I draw moon number {number}?"} for number in range(count)]
    for row in rows[::50]:
        row["image"] = "moon.jpg"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _inputs(path):
    return Inputs([path], lambda _: None)


def _scores(folder):
    rows = [row for path in Shards(folder).paths() for row in pq.read_table(path).to_pylist()]
    return {(row["row"], row["id"]): (row["score"], row["error"]) for row in rows}, len(rows)


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_scores_are_bit_equal_to_a_scan_in_one_process(tmp_path, options, nodes, actors):
    table = _samples(tmp_path, 120)
    table.write_text(table.read_text() + '{"image": "gone.jpg"}\n{"Prompt": "a"}\n')
    out = tmp_path / "results.jsonl"
    results = Results(out, options.key)
    scan(_inputs(table), results, options, 1)
    results.close()
    cluster = Cluster(nodes.address, actors, threads=1, shard_rows=16)
    scan_on_cluster(_inputs(table), tmp_path / "shards", options, cluster)
    found, count = _scores(tmp_path / "shards")
    expected = {(row["row"], row["id"]): (row.get("score"), row["error"]) for row in rows_of(out)}
    # Why an image cannot be read is said with the node's name.
    gone = next(key for key, (_, error) in expected.items() if error and "gone.jpg" in error)
    expected[gone] = (None, f"node {platform.node()}: {expected[gone][1]}")
    assert found == expected
    assert count == 122
    # Nothing is left to do, and nothing is done.
    before = Shards(tmp_path / "shards").paths()
    scan_on_cluster(_inputs(table), tmp_path / "shards", options, cluster)
    assert Shards(tmp_path / "shards").paths() == before


def _is_ours(pid):
    """Whether a process is a descendant of this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def _actors():
    """The processes of our actors."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(ACTOR) and _is_ours(int(path.parent.name)):
                yield int(path.parent.name)


_DRIVER = """
import sys
from pathlib import Path
from visionward.scan import cluster as cluster_module
from visionward.scan.cluster import Cluster, scan_on_cluster
from visionward.scan.inputs import Inputs
from visionward.scan.options import ScanOptions
table, out, journal, address, text, mmproj = sys.argv[1:]


class ShardActor(cluster_module.ShardActor):
    def _remember(self, identifier, judged):
        with open(journal, "a") as file:
            file.write(identifier + "\\n")
        super()._remember(identifier, judged)


cluster_module.ShardActor = ShardActor
options = ScanOptions((Path(text), Path(mmproj)), {"threads": 1, "vision_backend": "ggml"})
cluster = Cluster(address, 2, threads=1, shard_rows=16)
scan_on_cluster(Inputs([Path(table)], lambda _: None), Path(out), options, cluster)
"""


def _drive(table, out, options, address):
    """A driver in a process of its own, with two actors and files of 16 samples. Each judgement is a line of a file."""
    command = [sys.executable, "-c", _DRIVER, table, out, out.with_name("judged"), address, *options.pair]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("count", "kills"), [(300, 3), pytest.param(2000, 20, marks=pytest.mark.slow)])
def test_whatever_is_killed_none_is_lost_and_none_doubled(tmp_path, options, nodes, count, kills):
    """Drivers, actors and nodes are killed in turn at random moments."""
    table, out = _samples(tmp_path, count), tmp_path / "shards"
    rng = random.Random(kills)
    driver, done = _drive(table, out, options, nodes.address), []
    started = 0
    while started < kills:
        before, end = len(Shards(out).paths()), time.monotonic() + 120
        while driver.poll() is None and len(Shards(out).paths()) == before and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        if driver.poll() is not None:
            if driver.returncode == 0:
                break
            # A driver may give up when a node is lost; the same command goes on.
            print(driver.stderr.read())  # noqa: T201
            driver = _drive(table, out, options, nodes.address)
        what = ("driver", "actor", "node")[started % 3]
        if what == "driver":
            driver.kill()
            driver.wait()
            driver = _drive(table, out, options, nodes.address)
        elif what == "actor":
            for pid in list(_actors())[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            worker = next(iter(nodes.worker_nodes))
            nodes.remove_node(worker, allow_graceful=False)
            nodes.add_node(num_cpus=2)
        done.append((what, len(Shards(out).paths())))
        started += 1
    driver.wait(900)
    error = driver.stderr.read()
    if driver.returncode:
        # A driver may give up when its node is lost; the same command goes on.
        print(error)  # noqa: T201
        driver = _drive(table, out, options, nodes.address)
        assert driver.wait(900) == 0, driver.stderr.read()
    judged = (tmp_path / "judged").read_text().splitlines()
    assert len(set(judged)) == count
    lost = sum({"driver": 2, "actor": 1, "node": 2}[what] for what, _ in done)
    print(done, f"{len(judged) - count} samples were judged again, after the loss of at most {lost} actors")  # noqa: T201
    assert len(judged) - count <= lost * 16
    assert [number for _, number in done] == sorted(number for _, number in done)
    rows = [row for path in Shards(out).paths() for row in pq.read_table(path, columns=["row", "error"]).to_pylist()]
    assert sorted(row["row"] for row in rows) == list(range(1, count + 1))
    assert [row["error"] for row in rows if row["error"]] == []


def test_refusals(tmp_path, options, nodes):
    table, out = _samples(tmp_path, 2), tmp_path / "shards"
    scan_on_cluster(_inputs(table), out, options, Cluster(nodes.address, 1, threads=1))
    other = ScanOptions(options.pair, options.engine, threshold=0.25)
    with pytest.raises(DataError, match="has results of another model, policy or threshold"):
        scan_on_cluster(_inputs(table), out, other, Cluster(nodes.address, 1, threads=1))
    node = f"node {platform.node()} holds 2 by its CPUs"
    with pytest.raises(
        DataError, match=rf"^5 actors with 1 threads and .* each do not fit the Ray cluster: {node}, {node}; "
    ):
        scan_on_cluster(_inputs(table), tmp_path / "b", options, Cluster(nodes.address, 5, threads=1))
    with pytest.raises(DataError, match=r"^an actor .* does not fit .* holds 0 by its GPUs"):
        scan_on_cluster(_inputs(table), tmp_path / "c", options, Cluster(nodes.address, 1, threads=1, gpus=1))
    gone = ScanOptions((tmp_path / "gone.gguf", options.pair[1]), options.engine)
    with pytest.raises(VisionwardError, match=r"gone.gguf: No such file"):
        scan_on_cluster(_inputs(table), tmp_path / "d", gone, Cluster(nodes.address, 1, threads=1))


def test_a_node_with_other_versions_is_named(tmp_path, options, nodes, monkeypatch):
    """The driver's own are changed, which is the same difference."""
    table = _samples(tmp_path, 2)
    monkeypatch.setattr("visionward.scan.cluster.version_text", lambda: "visionward 9.9")
    expected = rf"^node {platform.node()}: it has visionward .*, and the driver visionward 9\.9: install "
    with pytest.raises(ComputeError, match=expected):
        scan_on_cluster(_inputs(table), tmp_path / "a", options, Cluster(nodes.address, 1, threads=1))


def test_a_sample_whose_process_ends_or_hangs_twice_is_an_error(tmp_path, options, nodes, monkeypatch):
    table, out = _samples(tmp_path, 20), tmp_path / "shards"
    table.write_text(table.read_text() + '{"prompt": "die"}\n{"prompt": "hang"}\n')
    monkeypatch.setattr("visionward.scan.cluster.ShardActor", OddActor)
    cluster = Cluster(nodes.address, 1, threads=1, deadline_s=8)
    scan_on_cluster(_inputs(table), out, options, cluster)
    rows = [row for path in Shards(out).paths() for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 22
    assert {row["row"]: (row["verdict"], row["error"]) for row in rows if row["error"]} == {
        21: (None, "given up after 2 attempts: the guard's process ended (SIGKILL)"),
        22: (None, "given up after 2 attempts: no result within 8 s"),
    }


def test_what_an_actor_raises_is_one_sentence_with_the_node(tmp_path, options, nodes):
    """The folder of the results is removed while actors load the model."""
    table, out = _samples(tmp_path, 60), tmp_path / "shards"

    def remove():
        while not list(_actors()):
            time.sleep(0.05)
        shutil.rmtree(out)

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    with pytest.raises(ComputeError) as caught:
        scan_on_cluster(_inputs(table), out, options, Cluster(nodes.address, 1, threads=1))
    remover.join()
    assert re.fullmatch(rf"node {platform.node()}: {out}(/_scan.json)?: .*No such file or directory", str(caught.value))
