"""What an actor of a cluster runs: it judges batches in a process of its own, and writes files. No import of Ray."""

import itertools
import pickle
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionward.errors import VisionwardError
from visionward.machine.extras import require
from visionward.runtime.guard.samples import Sample
from visionward.scan.arrow_tables import result_row, result_table
from visionward.scan.item import Item
from visionward.scan.node_check import Expected, NodeReport, node_report, problem_of
from visionward.scan.pool import Pool
from visionward.scan.shards import Shards
from visionward.scan.worker import judged_row

# Results that an actor remembers, so that samples with equal content are judged once. They take some 10 MB.
_MAX_REMEMBERED = 10_000


class ShardActor:
    """Judges batches. Two calls may overlap: while one writes its file, the samples of the next one are judged.

    A node may join later, so each actor checks its node.

    Args:
        expected: what the node must have. One of the images must be readable, if there are any.
        threads: of the engine.
        deadline_s: seconds within which a sample must be finished.
    """

    def __init__(self, expected: Expected, threads: int, deadline_s: float) -> None:
        self._node = f"node {platform.node()}"
        self._problem = _own_problem(expected)
        self._options = expected.options
        self._settings = expected.settings
        self._shards = Shards(Path(expected.folder))
        # Id -> result, oldest first, and ids without a result yet. Both are changed under the pool's lock.
        self._results: dict[str, dict[str, Any]] = {}
        self._waiting: set[str] = set()
        # A node may have several actors.
        options = expected.options.with_threads(threads).for_several_processes()
        self._pool = Pool(options, 1, self._remember, deadline_s)

    def __call__(self, batch: Any) -> Any:
        """Judge a batch.

        Args:
            batch: a table with the columns ``key`` and ``item``.

        Returns:
            A table with the number of samples, and what went wrong, in one sentence. Ray would hide an exception in
            several others.
        """
        pyarrow = require("pyarrow")
        problem = self._problem
        if problem is None:
            try:
                self._judge(batch)
            except VisionwardError as error:
                problem = f"{self._node}: {error}"
        return pyarrow.table({"count": [batch.num_rows], "problem": pyarrow.array([problem], pyarrow.string())})

    def _judge(self, batch: Any) -> None:
        keys = batch["key"].to_pylist()
        listed = [pickle.loads(item) for item in batch["item"].to_pylist()]  # noqa: S301 - the driver wrote them
        items = [item.read() for item in listed]
        identifiers = [self._options.item_id(item) for item in items]
        judged = self._judged(dict(zip(identifiers, items, strict=True)))
        rows = [
            result_row(
                item,
                identifier,
                judged[identifier] if isinstance(item.content, Sample) else self._unread(before, item.content),
                self._settings,
            )
            for identifier, before, item in zip(identifiers, listed, items, strict=True)
        ]
        self._shards.write(keys, result_table(rows))

    def _remember(self, identifier: str, judged: dict[str, Any]) -> None:
        self._results[identifier] = judged
        self._waiting.discard(identifier)

    def _judged(self, items: Mapping[str, Item]) -> dict[str, dict[str, Any]]:
        """Id to result, of the items that have a sample."""
        samples = {identifier: item.content for identifier, item in items.items() if isinstance(item.content, Sample)}
        found = {}
        for identifier, sample in samples.items():
            with self._pool.lock:
                if identifier in self._results:
                    found[identifier] = self._results[identifier]
                    continue
                # The other call may have submitted it.
                if identifier in self._waiting:
                    continue
                self._waiting.add(identifier)
            self._pool.submit(identifier, sample)
        others = samples.keys() - found.keys()
        self._pool.wait_until(lambda: others <= self._results.keys())
        with self._pool.lock:
            found |= {identifier: self._results[identifier] for identifier in others}
            # Those that the other call waits for are among the latest.
            excess = len(self._results) - max(_MAX_REMEMBERED, 4 * len(items))
            for identifier in list(itertools.islice(self._results, max(0, excess))):
                del self._results[identifier]
        return found

    def _unread(self, listed: Item, error: VisionwardError) -> dict[str, Any]:
        """The result of an item that has no sample, or whose images cannot be read."""
        judged = judged_row(None, error)
        if isinstance(listed.content, Sample):
            # What one node cannot read, another one may.
            judged["error"] = f"{self._node}: {judged['error']}"
        return judged


def _own_problem(expected: Expected) -> str | None:
    """Why this node cannot judge. The images of ``expected`` are readable on another node."""
    report = node_report(expected)
    readable = NodeReport("driver", None, (None,) * len(expected.images))
    return problem_of(readable, [report])
