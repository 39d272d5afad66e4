"""How many actors of a scan fit a cluster, by cores, GPUs and memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionward.errors import DataError
from visionward.quantities import size_text
from visionward.scan.options import ScanOptions

# Nodes that a message names.
_MAX_NAMED = 3


@dataclass(frozen=True)
class Node:
    """What a node has.

    Attributes:
        name: of the node.
        cpus: CPUs.
        gpus: GPUs.
        memory: bytes; infinite if it is not known.
    """

    name: str
    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class ActorNeeds:
    """What an actor takes.

    Attributes:
        threads: CPU threads.
        gpus: GPUs; may be a fraction.
        memory: bytes of its own.
        shared: bytes of the model's files, which actors of one node share.
    """

    threads: int
    gpus: float
    memory: int
    shared: int

    def fitting(self, node: Node) -> tuple[int, str]:
        """How many fit a node, and what limits them."""
        limits = [(int(node.cpus // self.threads), "CPUs")]
        if self.gpus:
            limits.append((int(node.gpus // self.gpus), "GPUs"))
        if self.memory and node.memory != float("inf"):
            limits.append((int(max(0.0, node.memory - self.shared) // self.memory), "memory"))
        return min(limits)

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.threads} threads{gpus} and {size_text(self.memory)} of memory"


def nodes_of(listed: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes that can have actors.

    Args:
        listed: what ``ray.nodes`` returns.

    Raises:
        DataError: if there is none.
    """
    nodes = []
    for one in listed:
        has = one["Resources"]
        if one["Alive"] and has.get("CPU"):
            memory = has.get("memory", float("inf"))
            nodes.append(Node(one["NodeManagerHostname"], has["CPU"], has.get("GPU", 0.0), memory))
    if not nodes:
        raise DataError("the Ray cluster has no node with a CPU")
    return nodes


def wants_gpu(options: ScanOptions) -> bool:
    """Whether the engine's options name a GPU."""
    named = [name for key in ("device", "vision_device") if (name := options.engine.get(key))]
    return bool(options.engine.get("gpu_layers")) or any(str(name).upper() != "CPU" for name in named)


def chosen_threads(nodes: Sequence[Node], actors: int | None, threads: int | None) -> int:
    """Threads of an actor: those that are given, or an equal part of the smallest node's cores."""
    if threads is not None:
        return threads
    each = 1 if actors is None else -(-actors // len(nodes))
    return max(1, int(min(node.cpus for node in nodes) // each))


def chosen_actors(nodes: Sequence[Node], needs: ActorNeeds, actors: int | None) -> int:
    """Number of actors: those that are given, or one for each node that it fits.

    Raises:
        DataError: if they do not fit.
    """
    fitting = [needs.fitting(node) for node in nodes]
    most = sum(number for number, _ in fitting)
    wanted = actors or max(1, sum(1 for number, _ in fitting if number))
    if wanted <= most:
        return wanted
    named = list(zip(nodes, fitting, strict=True))
    holds = [f"node {node.name} holds {number} by its {limit}" for node, (number, limit) in named[:_MAX_NAMED]]
    if len(named) > _MAX_NAMED:
        holds.append(f"{len(named) - _MAX_NAMED} more nodes hold {most - sum(n for n, _ in fitting[:_MAX_NAMED])}")
    what = "an actor" if wanted == 1 else f"{wanted} actors"
    raise DataError(
        f"{what} with {needs}{'' if wanted == 1 else ' each'} do{'es' if wanted == 1 else ''} not fit the Ray cluster: "
        f"{', '.join(holds)}; use fewer --actors, --threads or --gpus-per-actor, or a smaller --n-ctx"
    )
