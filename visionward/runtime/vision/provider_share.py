"""How much of the vision tower an execution provider of ONNX Runtime computes, and what it leaves to the CPU."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from visionward.quantities import percent_text

# Names of operators that multiply matrices, fused ones included, have one of these in them.
_PRODUCTS = ("MatMul", "Gemm", "Attention", "Conv")


@dataclass(frozen=True)
class ProviderShare:
    """The nodes of a session's graph, by what computes them.

    Attributes:
        nodes: nodes in all.
        left: those that the provider leaves to the CPU.
        products: nodes that multiply matrices, in all.
        products_left: those that the provider leaves to the CPU.
    """

    nodes: int
    left: int
    products: int
    products_left: int

    def __str__(self) -> str:
        share = percent_text(self.left / self.nodes)
        return (
            f"{self.left} of {self.nodes} nodes ({share}) of the vision tower to the CPU, {self.products_left} of "
            f"{self.products} matrix products among them"
        )


def provider_share(provider: str, subgraphs: Iterable[Any]) -> ProviderShare:
    """Count nodes.

    Args:
        provider: ONNX Runtime's name of the provider.
        subgraphs: what ``InferenceSession.get_provider_graph_assignment_info`` returns.
    """
    nodes = [(subgraph.ep_name, node.op_type) for subgraph in subgraphs for node in subgraph.get_nodes()]
    products = [name for name, operator in nodes if any(product in operator for product in _PRODUCTS)]
    return ProviderShare(
        len(nodes),
        sum(name != provider for name, _ in nodes),
        len(products),
        sum(name != provider for name in products),
    )
