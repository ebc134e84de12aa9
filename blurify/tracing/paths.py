"""The dotted name by which a user knows each node of a graph.

A module's call is named by the module, a function's by the module that calls it and the function: `layer1.0.relu`,
`layer1.0.add`. The second and later nodes of one name get `_1`, `_2`, ... as torchvision's feature extraction has it.
"""

from __future__ import annotations

from torch import fx
from torch.fx.node import Node


def assign_paths(graph: fx.Graph, scopes: dict[Node, str], taken: set[str]) -> None:
    """Give every node its `meta["path"]`; `taken` are the paths of real modules, which no suffix may imitate."""
    used: set[str] = set()
    for node in graph.nodes:
        base = node_base(node, scopes.get(node, ""))
        path, count = base, 0
        while path in used or (count and path in taken):
            count += 1
            path = f"{base}_{count}"
        used.add(path)
        node.meta["path"] = path


def node_base(node: Node, scope: str) -> str:
    """The path before it is made unique."""
    if node.op in ("call_module", "get_attr", "placeholder", "output"):
        return str(node.target)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{scope}.{name}" if scope else str(name)


def node_paths(graph: fx.Graph) -> dict[str, Node]:
    """Every node by its path."""
    return {node.meta["path"]: node for node in graph.nodes}
