"""The dotted name by which a user knows each node of a graph.

A module's call is named by the module, a function's by the module that calls it and the function: `layer1.0.relu`,
`layer1.0.add`. The second and later nodes of one name get `_1`, `_2`, ... as torchvision's feature extraction has it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from itertools import count
from typing import Any

from torch import fx
from torch.fx.node import Node, map_aggregate

# `x += y` and its kin, each named as what it does.
IN_PLACE: dict[Callable[[Any, Any], Any], str] = {
    getattr(operator, f"i{name}"): name for name in "add sub mul truediv floordiv mod pow matmul and or xor".split()
}
Scopes = dict[Node, tuple[str, bool]]


def assign_paths(graph: fx.Graph, scopes: Scopes, taken: set[str]) -> None:
    """Give every node its `meta["path"]`; `taken` are the paths of real modules, which no function may imitate.

    `scopes` tells the module that each node arose in, and whether the node is that module's whole call.
    """
    for node in graph.nodes:
        scope, is_call = scopes.get(node, ("", False))
        node.meta["base"] = scope if is_call else node_base(node, scope)
        node.meta["is_modules"] = is_call or node.op in ("call_module", "get_attr")
    _make_unique(graph, {}, set(), taken)


def align_paths(graph: fx.Graph, reference: fx.Graph, taken: set[str]) -> None:
    """Give the nodes of `graph` the paths of the nodes of `reference` that they correspond to, and new ones to others.

    Two graphs of one model agree in most nodes, and yet a node more in one would shift every number after it.
    """
    nodes, others = list(graph.nodes), list(reference.nodes)
    matcher = SequenceMatcher(None, [_token(n) for n in others], [_token(n) for n in nodes], autojunk=False)
    known: dict[Node, str] = {}
    for start, twin_start, length in matcher.get_matching_blocks():
        for offset in range(length):
            known[nodes[twin_start + offset]] = others[start + offset].meta["path"]
    _make_unique(graph, known, {node.meta["path"] for node in others}, taken)


def _token(node: Node) -> str:
    """Describe a node without flags: those of dropouts and norms differ between the modes."""
    plain = map_aggregate((node.args, node.kwargs), lambda a: "" if isinstance(a, (Node, bool)) else repr(a))
    return f"{node.meta['base']} {plain}"


def _make_unique(graph: fx.Graph, known: dict[Node, str], used: set[str], taken: set[str]) -> None:
    numbers: dict[str, Iterator[int]] = {}
    for node in graph.nodes:
        path = known.get(node) or _free(node, used, taken, numbers)
        used.add(path)
        node.meta["path"] = path


def _free(node: Node, used: set[str], taken: set[str], numbers: dict[str, Iterator[int]]) -> str:
    """Return the node's path with the first number that is free; `numbers` are those not yet tried, by path."""
    base = str(node.meta["base"])
    if node.op == "output" or (base not in used and (node.meta["is_modules"] or base not in taken)):
        return base
    numbered = (f"{base}_{number}" for number in numbers.setdefault(base, count(1)))
    return next(path for path in numbered if path not in used and path not in taken)


def node_base(node: Node, scope: str) -> str:
    """Return the path before it is made unique."""
    if node.op in ("call_module", "get_attr", "placeholder", "output"):
        return str(node.target)
    name = function_name(node.target)
    return f"{scope}.{name}" if scope else name


def function_name(target: object) -> str:
    """Return the plain name of a function, method or operator overload."""
    if target in IN_PLACE:
        return IN_PLACE[target]
    packet = getattr(target, "overloadpacket", target)
    return packet if isinstance(packet, str) else getattr(packet, "__name__", str(packet))


def name_of(node: fx.Node) -> str:
    """Return the name that functions, methods and operators of one kind share; empty for modules and inputs."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return ""
    target: Any = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(target, "__name__", ""))


def exported_scopes(graph: fx.Graph) -> Scopes:
    """Return the innermost module that each node of an exported graph arose in, and whether it is its whole call.

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
    """Return every node by its path."""
    return {node.meta["path"]: node for node in graph.nodes}
