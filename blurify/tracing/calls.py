"""The calls of modules that were running when a node was recorded: a graph alone tells those of leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.node import Node
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class ModuleCall:
    """One call of the module at `path`: the node it was fed first, those it was fed beside, and the one it gave.

    `in_context` tells whether it runs in a context, such as `torch.no_grad()`, that a `forward` around it has entered.
    `meta["within"]` of every node that the symbolic tracer records holds its calls, the outermost first.
    """

    path: str
    fed: Node | None = None
    beside: frozenset[Node] = frozenset()
    gives: Node | None = None
    in_context: bool = False

    @classmethod
    def of(
        cls,
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        latest: Callable[[Node], Node],
        in_context: bool = False,
    ) -> ModuleCall:
        """Return the call as it begins; `latest` tells which node gives what a tensor holds now."""
        first = latest(args[0].node) if args and issubclass(type(args[0]), fx.Proxy) else None
        beside = (latest(value.node) for value in tree_leaves((args[1:], kwargs)) if issubclass(type(value), fx.Proxy))
        return cls(path, first, frozenset(beside), in_context=in_context)


def running(node: Node) -> tuple[ModuleCall, ...]:
    """Return the calls in which the node was recorded; empty where no symbolic tracer did."""
    calls: tuple[ModuleCall, ...] = node.meta.get("within", ())
    return calls


def calls_by_path(graph: fx.Graph) -> dict[str, list[ModuleCall]]:
    """Return every call of a module in which a node was recorded, by the module's path."""
    calls: dict[str, dict[ModuleCall, None]] = {}
    for node in graph.nodes:
        for call in running(node):
            calls.setdefault(call.path, {})[call] = None
    return {path: list(of_path) for path, of_path in calls.items()}
