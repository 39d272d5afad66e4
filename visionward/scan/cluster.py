"""A scan on many machines with Ray Data. Nothing else of visionward imports Ray.

An actor loads the model once and judges one batch after the other. Each batch becomes one file when it is whole. What
is left to do is found by comparing the samples with the finished files, and not by Ray.
"""

import contextlib
import itertools
import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visionward.errors import ComputeError, DataError
from visionward.machine.extras import require
from visionward.progress import OnProgress, ProgressCounter
from visionward.scan.actor_sizes import ActorNeeds, chosen_actors, chosen_threads, nodes_of, wants_gpu
from visionward.scan.item import Item
from visionward.scan.model_memory import ModelMemory
from visionward.scan.node_check import MAX_PROBES, Expected, node_report, problem_of, readable_images, version_text
from visionward.scan.options import ScanOptions
from visionward.scan.pool import DEFAULT_DEADLINE_S
from visionward.scan.shard_actor import ShardActor
from visionward.scan.shards import Shards

# An actor that is lost costs at most the samples of one file.
DEFAULT_SHARD_ROWS = 64
# While one call of an actor writes its file, the samples of another one are judged.
_CALLS = 2
# Samples whose images every node is asked to read.
_FIRST = 64
# Files that Ray is given at a time. An actor loads the model once for so many.
_ROUND_SHARDS = 16_384


@dataclass(frozen=True)
class Cluster:
    """How much of a Ray cluster is used.

    Attributes:
        address: of the cluster; None for one that is started on this machine.
        actors: number of actors; None for one per node.
        threads: CPU threads of an actor; None for its part of the smallest node's cores.
        gpus: GPUs of an actor; may be a fraction. None: one if the engine's options name a GPU.
        shard_rows: samples per file.
        deadline_s: seconds within which an actor must finish a sample.
    """

    address: str | None = None
    actors: int | None = None
    threads: int | None = None
    gpus: float | None = None
    shard_rows: int = DEFAULT_SHARD_ROWS
    deadline_s: float = DEFAULT_DEADLINE_S


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
        needs, actors = _sizes(ray, cluster, options)
        # Only now: the actors of a driver that was killed have ended.
        finished = shards.finished()
        progress = ProgressCounter(on_progress, "scanning", total, "samples", min(len(finished), total))
        ray.data.DataContext.get_current().enable_progress_bars = False
        left = _left(items, finished)
        first = list(itertools.islice(left, _FIRST))
        images = dict.fromkeys(source for _, item in first for source in item.image_sources())
        probes = tuple(itertools.islice(images, MAX_PROBES))
        expected = _checked(ray, Expected(options, options.key, version_text(), str(shards.folder), probes))
        left = itertools.chain(first, left)
        while tables := list(itertools.islice(_tables(left, cluster.shard_rows), _ROUND_SHARDS)):
            counts = ray.data.from_arrow(tables).map_batches(
                ShardActor,
                fn_constructor_args=(expected, needs.threads, cluster.deadline_s),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=min(actors, len(tables)),
                    max_concurrent_calls_per_actor=_CALLS,
                    enable_true_multi_threading=True,
                ),
                num_cpus=needs.threads,
                num_gpus=needs.gpus or None,
                memory=needs.memory,
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
        # Without an address, Ray would use one that runs on this machine already.
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", runtime_env=path)
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
            yield key, item.absolute()


def _tables(left: Iterator[tuple[bytes, Item]], rows: int) -> Iterator[Any]:
    pyarrow = require("pyarrow")
    while chunk := list(itertools.islice(left, rows)):
        keys, items = zip(*chunk, strict=True)
        pickled = [pickle.dumps(item) for item in items]
        yield pyarrow.table(
            {"key": pyarrow.array(keys, pyarrow.binary()), "item": pyarrow.array(pickled, pyarrow.large_binary())}
        )


def _sizes(ray: Any, cluster: Cluster, options: ScanOptions) -> tuple[ActorNeeds, int]:
    """What an actor takes, and the number of actors."""
    nodes = nodes_of(ray.nodes())
    gpus = (1.0 if wants_gpu(options) else 0.0) if cluster.gpus is None else cluster.gpus
    memory = ModelMemory.of(options)
    needs = ActorNeeds(chosen_threads(nodes, cluster.actors, cluster.threads), gpus, memory.private, memory.shared)
    return needs, chosen_actors(nodes, needs, cluster.actors)


def _checked(ray: Any, expected: Expected) -> Expected:
    """Check that every node has the same versions and files, and reads images.

    Returns:
        What nodes that join later must have: only images that can be read.

    Raises:
        ComputeError: if one does not.
    """
    strategy = require("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    check = ray.remote(num_cpus=0)(node_report)
    running = [
        check.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(expected)
        for node in ray.nodes()
        if node["Alive"]
    ]
    driver, nodes = node_report(expected), []
    for one in running:
        # A node that is lost meanwhile is not used. Actors check again, because nodes may join later.
        with contextlib.suppress(ray.exceptions.RayError):
            nodes.append(ray.get(one))
    _raise(problem_of(driver, nodes))
    images = tuple(expected.images[number] for number in readable_images((driver, *nodes)))
    return replace(expected, images=images)


def _raise(problem: str | None) -> None:
    if problem is not None:
        raise ComputeError(problem)
