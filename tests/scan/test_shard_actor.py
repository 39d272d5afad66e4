"""An actor without Ray: what it judges, remembers and writes."""

import errno
import os
import pickle
import platform
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scanned import PROMPT

from visionward.scan import shard_actor
from visionward.scan.image_files import image_items
from visionward.scan.node_check import Expected, version_text
from visionward.scan.pool import Pool
from visionward.scan.shard_actor import ShardActor
from visionward.scan.shards import Shards

pytestmark = pytest.mark.slow


@pytest.fixture
def judge(tmp_path, options, monkeypatch):
    """Judges images as one batch; the ids that were sent to the process; the results."""
    sent = []
    submit = Pool.submit
    monkeypatch.setattr(Pool, "submit", lambda self, *task: (sent.append(task[0]), submit(self, *task)))
    shards = Shards(tmp_path / "shards")
    shards.prepare(options.key)
    actor = ShardActor(Expected(options, options.key, version_text(), str(shards.folder)), 1, 60.0)

    assert actor._pool._options.engine["kernels"] == "plain"

    def judge_batch(*paths):
        items = list(image_items(paths, lambda _: PROMPT))
        keys = [item.listing_key() for item in items]
        table = pa.table({"key": pa.array(keys, pa.binary()), "item": [pickle.dumps(item) for item in items]})
        (row,) = actor(table).to_pylist()
        assert row["count"] == len(paths)
        return row["problem"]

    yield judge_batch, sent, lambda: [row for path in shards.paths() for row in pq.read_table(path).to_pylist()]
    actor._pool.close()


def _copies(tmp_path, pictures, names):
    """Images of which several have the same content."""
    paths = []
    for number, name in enumerate(names):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(pictures[number % 3].read_bytes())
    return paths


def test_equal_images_are_judged_once_by_an_actor_even_in_calls_that_overlap(tmp_path, pictures, judge):
    judge_batch, sent, results = judge
    paths = _copies(tmp_path, pictures, [f"{number}.jpg" for number in range(24)])
    batches = [paths[:8], paths[8:16], paths[16:]]
    threads = [threading.Thread(target=judge_batch, args=batch) for batch in batches[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert judge_batch(*batches[2]) is None
    assert len(sent) == len(set(sent)) == 3
    rows = results()
    assert sorted(row["name"] for row in rows) == sorted(map(str, paths))
    assert len({(row["id"], row["score"]) for row in rows}) == 3
    assert {row["error"] for row in rows} == {None}


def test_results_are_not_remembered_for_ever(tmp_path, pictures, judge, monkeypatch):
    monkeypatch.setattr(shard_actor, "_MAX_REMEMBERED", 2)
    judge_batch, sent, results = judge
    paths = _copies(tmp_path, pictures, "abcdef")
    for path in paths:
        assert judge_batch(path) is None
    # Four times a batch are remembered in any case.
    assert len(sent) == 3
    monkeypatch.setattr(shard_actor, "_MAX_REMEMBERED", -9)
    (tmp_path / "g").write_bytes(pictures[3].read_bytes())
    (tmp_path / "h").write_bytes(pictures[4].read_bytes())
    assert [judge_batch(tmp_path / name) for name in "gha"] == [None] * 3
    assert len(sent) == 6
    assert len(results()) == 8


def test_a_full_disk_is_a_sentence_with_the_node_and_the_batch_can_be_judged_again(
    tmp_path, pictures, judge, monkeypatch
):
    judge_batch, sent, results = judge

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        problem = judge_batch(*pictures)
    assert problem.startswith(f"node {platform.node()}: {tmp_path}/shards: the disk is full; ")
    assert results() == []
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["_scan.json"]
    assert judge_batch(*pictures) is None
    assert len(results()) == len(sent) == len(pictures)


def test_an_image_that_cannot_be_read_is_an_error_with_the_node(tmp_path, judge):
    judge_batch, _, results = judge
    assert judge_batch(tmp_path / "gone.jpg") is None
    (row,) = results()
    expected = f"node {platform.node()}: the image {tmp_path}/gone.jpg cannot be read: No such file or directory"
    assert (row["verdict"], row["error"]) == (None, expected)
