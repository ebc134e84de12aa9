"""The dotted name by which a user knows each node of a graph.

A module's call is named by the module, a function's by the module that calls it and the function: `layer1.0.relu`,
`layer1.0.add`. The second and later nodes of one name get `_1`, `_2`, ... as torchvision's feature extraction has it.
"""

from __future__ import annotations

from torch import fx
from torch.fx.node import Node


def assign_paths(graph: fx.Graph, scopes: dict[Node, tuple[str, bool]], taken: set[str]) -> None:
    """Give every node its `meta["path"]`; `taken` are the paths of real modules, which no suffix may imitate.

    `scopes` tells the module that each node arose in, and whether the node is that module's whole call.
    """
    used: set[str] = set()
    for node in graph.nodes:
        scope, is_call = scopes.get(node, ("", False))
        base = scope if is_call else node_base(node, scope)
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
    name = function_name(node.target)
    return f"{scope}.{name}" if scope else name


def function_name(target: object) -> str:
    """The plain name of a function, method or operator overload."""
    packet = getattr(target, "overloadpacket", target)
    return packet if isinstance(packet, str) else getattr(packet, "__name__", str(packet))


def exported_scopes(graph: fx.Graph) -> dict[Node, tuple[str, bool]]:
    """Of each node of an exported graph: the innermost module it arose in, and whether it is that module's whole call.

    The last node that arose in a module of `torch.nn` gives what calling the module gave, and bears its path alone.
    """
    scopes = {node: _innermost(node) for node in graph.nodes}
    found = {}
    for node in graph.nodes:
        path, kind = scopes[node]
        ends_here = scopes.get(node.next, ("", ""))[0] != path
        found[node] = (path, ends_here and kind.startswith("torch.nn.modules.") and node.op == "call_function")
    return found


def _innermost(node: Node) -> tuple[str, str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    last = stack[-1] if stack else None
    if not (isinstance(last, tuple) and len(last) == 2 and isinstance(last[0], str)):
        return "", ""
    kind = last[1] if isinstance(last[1], str) else f"{last[1].__module__}.{last[1].__qualname__}"
    return last[0], kind


def node_paths(graph: fx.Graph) -> dict[str, Node]:
    """Every node by its path."""
    return {node.meta["path"]: node for node in graph.nodes}
