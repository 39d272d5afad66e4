"""What an actor of a cluster runs: it judges a batch in a process of its own, and writes the file. No import of Ray."""

import pickle
import platform
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


class ShardActor:
    """Judges one batch after the other. A node may join later, so each actor checks its node.

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
        self._judged: dict[str, dict[str, Any]] = {}
        self._pool = Pool(expected.options.with_threads(threads), 1, self._judged.__setitem__, deadline_s)

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
        self._judged.clear()
        for identifier, item in dict(zip(identifiers, items, strict=True)).items():
            if isinstance(item.content, Sample):
                self._pool.submit(identifier, item.content)
        self._pool.finish()
        rows = [
            result_row(item, identifier, self._result(before, item, identifier), self._settings)
            for identifier, before, item in zip(identifiers, listed, items, strict=True)
        ]
        self._shards.write(keys, result_table(rows))

    def _result(self, listed: Item, read: Item, identifier: str) -> dict[str, Any]:
        if isinstance(read.content, Sample):
            return self._judged[identifier]
        judged = judged_row(None, read.content)
        if isinstance(listed.content, Sample):
            # An image that one node cannot read may be readable on another one.
            judged["error"] = f"{self._node}: {judged['error']}"
        return judged


def _own_problem(expected: Expected) -> str | None:
    """Why this node cannot judge. The images of ``expected`` are readable on another node."""
    report = node_report(expected)
    readable = NodeReport("driver", None, (None,) * len(expected.images))
    return problem_of(readable, [report])
