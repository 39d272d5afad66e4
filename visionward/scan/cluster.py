"""A scan on many machines with Ray Data. Nothing else of visionward imports Ray.

An actor loads the model once and judges one batch after the other. Each batch becomes one file when it is whole. What
is left to do is found by comparing the samples with the finished files, and not by Ray.
"""

import contextlib
import itertools
import logging
import os
import pickle
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionward.errors import ComputeError, DataError, VisionwardError
from visionward.machine.extras import require
from visionward.machine.packages import installed_version
from visionward.progress import OnProgress, ProgressCounter
from visionward.runtime.guard.samples import Sample
from visionward.scan.arrow_tables import result_row, result_table
from visionward.scan.item import Item
from visionward.scan.options import ScanOptions
from visionward.scan.pool import DEFAULT_DEADLINE_S, Pool
from visionward.scan.shards import Shards
from visionward.scan.worker import judged_row

# An actor that is lost costs at most the samples of one file.
DEFAULT_SHARD_ROWS = 64
# Files that Ray is given at a time. An actor loads the model once for so many.
_ROUND_SHARDS = 16_384


@dataclass(frozen=True)
class Cluster:
    """How much of a Ray cluster is used.

    Attributes:
        address: of the cluster; None for one that is started on this machine.
        actors: number of actors; None for one per node.
        threads: CPU threads of an actor; None for the cores of the smallest node.
        gpus: GPUs of an actor; may be a fraction.
        shard_rows: samples per file.
        deadline_s: seconds within which an actor must finish a sample.
    """

    address: str | None = None
    actors: int | None = None
    threads: int | None = None
    gpus: float = 0.0
    shard_rows: int = DEFAULT_SHARD_ROWS
    deadline_s: float = DEFAULT_DEADLINE_S


class ShardActor:
    """What an actor of Ray runs: it judges a batch in a process of its own, and writes the file.

    Args:
        options: the model, and how it judges.
        settings: ``options.key`` on the driver.
        version: the versions of the driver.
        folder: of the results.
        deadline_s: seconds within which a sample must be finished.
    """

    def __init__(self, options: ScanOptions, settings: str, version: str, folder: str, deadline_s: float) -> None:
        self._problem = node_problem(options, settings, version)
        self._options = options
        self._settings = settings
        self._shards = Shards(Path(folder))
        self._judged: dict[str, dict[str, Any]] = {}
        self._pool = Pool(options, 1, self._judged.__setitem__, deadline_s)

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
                problem = f"node {platform.node()}: {error}"
        return pyarrow.table({"count": [batch.num_rows], "problem": pyarrow.array([problem], pyarrow.string())})

    def _judge(self, batch: Any) -> None:
        keys = batch["key"].to_pylist()
        items = [pickle.loads(item).read() for item in batch["item"].to_pylist()]  # noqa: S301 - the driver wrote them
        identifiers = [self._options.item_id(item) for item in items]
        self._judged.clear()
        for identifier, item in dict(zip(identifiers, items, strict=True)).items():
            if isinstance(item.content, Sample):
                self._pool.submit(identifier, item.content)
        self._pool.finish()
        rows = [
            result_row(
                item,
                identifier,
                self._judged[identifier] if isinstance(item.content, Sample) else judged_row(None, item.content),
                self._settings,
            )
            for identifier, item in zip(identifiers, items, strict=True)
        ]
        self._shards.write(keys, result_table(rows))


def scan_on_cluster(
    items: Iterable[Item],
    folder: Path,
    options: ScanOptions,
    cluster: Cluster,
    *,
    total: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Judge the samples that no finished file has.

    Args:
        items: the samples. Paths and the folder must be valid on every node.
        folder: of the results.
        options: the model, and how it judges.
        cluster: the cluster.
        total: number of the samples; 0 if it is unknown.
        on_progress: called for each file.

    Raises:
        DataError: if actors do not fit, or the folder has results of other settings.
        ComputeError: if nodes differ, or an actor fails. The message names its node.
        MissingExtraError: if Ray is not installed.
    """
    ray = _imported()
    shards = Shards(folder.absolute())
    shards.prepare(options.key)
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster.address)
    try:
        threads, actors = _sizes(ray, cluster)
        sized = options.with_threads(threads)
        _check_nodes(ray, options)
        # Only now: the actors of a driver that was killed have ended.
        finished = shards.finished()
        progress = ProgressCounter(on_progress, "scanning", total, "samples", min(len(finished), total))
        ray.data.DataContext.get_current().enable_progress_bars = False
        left = _left(items, finished)
        while tables := list(itertools.islice(_tables(left, cluster.shard_rows), _ROUND_SHARDS)):
            counts = ray.data.from_arrow(tables).map_batches(
                ShardActor,
                fn_constructor_args=(sized, options.key, _version(), str(shards.folder), cluster.deadline_s),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
                num_cpus=threads,
                num_gpus=cluster.gpus or None,
            )
            for batch in counts.iter_batches(batch_size=None, batch_format="pyarrow"):
                for problem in batch["problem"].to_pylist():
                    _raise(problem)
                progress.advance(sum(batch["count"].to_pylist()))
    except ray.exceptions.RayError as error:
        raise ComputeError(f"Ray ended the scan: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    finally:
        if started:
            ray.shutdown()
    shards.finished()  # no sample twice


def _imported() -> Any:
    """Ray, without its reports on what it does."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = require("ray", "ray.data")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine, whose modules are those of this process.

    Raises:
        DataError: if there is none at the address.
    """
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(_search_path())}} if address is None else None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=path)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"no Ray cluster can be used at {address or 'this machine'}: {reason}") from error


def _search_path() -> list[str]:
    path = os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(place) for place in path.split(os.pathsep) if place]  # noqa: PTH100 - as Python reads it


def _left(items: Iterable[Item], finished: set[bytes]) -> Iterator[tuple[bytes, Item]]:
    """The samples that are not finished, each once."""
    given: set[bytes] = set()
    for item in items:
        key = item.listing_key()
        if key not in finished and key not in given:
            given.add(key)
            yield key, item


def _tables(left: Iterator[tuple[bytes, Item]], rows: int) -> Iterator[Any]:
    pyarrow = require("pyarrow")
    while chunk := list(itertools.islice(left, rows)):
        keys, items = zip(*chunk, strict=True)
        pickled = [pickle.dumps(item) for item in items]
        yield pyarrow.table(
            {"key": pyarrow.array(keys, pyarrow.binary()), "item": pyarrow.array(pickled, pyarrow.large_binary())}
        )


def _sizes(ray: Any, cluster: Cluster) -> tuple[int, int]:
    """Threads per actor, and number of actors."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise DataError("the Ray cluster has no node with a CPU")
    threads = cluster.threads or int(min(node["CPU"] for node in nodes))
    fitting = sum(
        int(min(node["CPU"] // threads, node.get("GPU", 0) // cluster.gpus if cluster.gpus else node["CPU"]))
        for node in nodes
    )
    actors = cluster.actors or min(fitting, len(nodes))
    if not fitting or actors > fitting:
        gpus = f" and {cluster.gpus:g} GPUs" if cluster.gpus else ""
        wanted = f"{actors} actors" if actors else "an actor"
        raise DataError(
            f"{wanted} with {threads} threads{gpus} each do not fit the Ray cluster, which has room for {fitting}: use "
            "fewer --actors or --threads"
        )
    return threads, actors


def _check_nodes(ray: Any, options: ScanOptions) -> None:
    """Check that every node has the same versions and the same files."""
    strategy = require("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    check = ray.remote(num_cpus=0)(node_problem)
    running = [
        check.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(options, options.key, _version())
        for node in ray.nodes()
        if node["Alive"]
    ]
    for one in running:
        # A node that is lost meanwhile is not used. Actors check again, because nodes may join later.
        with contextlib.suppress(ray.exceptions.RayError):
            _raise(ray.get(one))


def _raise(problem: str | None) -> None:
    if problem is not None:
        raise ComputeError(problem)


def node_problem(options: ScanOptions, settings: str, version: str) -> str | None:
    """On a node: why it cannot judge.

    Args:
        options: the model, and how it judges.
        settings: ``options.key`` on the driver.
        version: the versions of the driver.
    """
    node = f"node {platform.node()}"
    try:
        key = options.fresh_key()
    except VisionwardError as error:
        return f"{node}: {error}"
    if _version() != version:
        return f"{node} has {_version()}, and the driver {version}: install the same on both"
    if key != settings:
        return f"{node} has other model files than the driver under the same names"
    return None


def _version() -> str:
    names = ("visionward", "llama-cpp-python")
    return ", ".join(f"{name} {installed_version(name) or '(not installed)'}" for name in names)
