"""Redirect readers of a tensor to its last change: `y.mul_(s)` gives `y` itself, used or not.

A statement whose result is dropped would look like a side branch otherwise.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import fx, nn

from blurify.graph.paths import IN_PLACE, function_name
from blurify.tracing.calls import running
from blurify.tracing.omissions import is_write

COMPARISONS = frozenset("lt le gt ge eq ne less less_equal greater greater_equal isnan isinf".split())
LOGIC = frozenset("and_ or_ and or xor invert logical_and logical_or logical_not".split())


class Latest:
    """The node that gives what a tensor holds now, by the node that gave the tensor."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.after: dict[fx.Node, fx.Node] = {}
        self.renamed: set[fx.Node] = set()

    def of(self, node: fx.Node) -> fx.Node:
        """Return the last change of what the node gave, which is read by an older name then."""
        if node not in self.after:
            return node
        while node in self.after:
            node = self.after[node]
        self.renamed.add(node)
        return node

    def forget_dropped(self, graph: fx.Graph) -> None:
        """Let no call give what is read by an older name: a layer put behind the call would not be heard."""
        for node in graph.nodes:
            for call in running(node):
                call.gives = None if call.gives in self.renamed else call.gives

    def note(self, node: fx.Node) -> None:
        """Note a node that changes a tensor in place; those of the model are followed by their paths."""
        fill_where_masked(node)
        tensor = changed(node, self.root)
        if tensor is not None and tensor.op != "get_attr":
            self.after[tensor] = node


def changed(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """Return the tensor that the node changes and gives back, if it does."""
    if not (node.args and isinstance(node.args[0], fx.Node)):
        return None
    writes = is_write(node, IN_PLACE) and node.target is not operator.setitem
    return node.args[0] if writes or _is_told(node, root) else None


def _is_told(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return type(module).__module__.startswith("torch.nn.") and bool(getattr(module, "inplace", False))
    if node.op != "call_function" or not str(getattr(node.target, "__module__", "")).startswith("torch"):
        return False
    return function_name(node.target).endswith("_") or bool(_argument(node, "inplace"))


def _argument(node: fx.Node, name: str) -> Any:
    target: Any = node.target
    try:
        return inspect.signature(target).bind(*node.args, **node.kwargs).arguments.get(name)
    except (TypeError, ValueError):
        return None


def fill_where_masked(node: fx.Node) -> None:
    """Write `y[y < 0] = 0` as `y.masked_fill_(y < 0, 0)`, which gives the tensor back."""
    if node.target is not operator.setitem:
        return
    tensor, mask, value = node.args
    if isinstance(tensor, fx.Node) and isinstance(value, (int, float)) and is_mask(mask, tensor):
        node.op, node.target = "call_method", "masked_fill_"


def is_mask(node: object, tensor: fx.Node) -> bool:
    """Return whether a node compares a tensor with something, number by number."""
    if not isinstance(node, fx.Node):
        return False
    name = function_name(node.target)
    if name in LOGIC:
        return all(is_mask(source, tensor) for source in node.all_input_nodes)
    return name in COMPARISONS and node.args[0] is tensor
