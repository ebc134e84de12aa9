"""Questions of the passes about nodes."""

from __future__ import annotations

from operator import setitem
from typing import Any

from torch import fx

from blurify.graph.module import TracedModule
from blurify.graph.paths import IN_PLACE, function_name


def called(node: fx.Node, traced: TracedModule) -> Any:
    """Return the module that the node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def only_source(node: fx.Node) -> fx.Node | None:
    """Return the one node that is read besides parameters and buffers, if it is the first argument."""
    sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
    return sources[0] if len(sources) == 1 and node.args and node.args[0] is sources[0] else None


def batch_statistics(node: fx.Node) -> Any:
    """Return whether a batch-norm function takes its statistics from the batch, or may."""
    return node.args[5] if len(node.args) > 5 else node.kwargs.get("training", False)


def writes(node: fx.Node, traced: TracedModule) -> bool:
    """Return whether the node changes what it reads, in place or as `out`."""
    if "out" in node.kwargs:
        return True
    if node.op == "call_module":
        return bool(getattr(called(node, traced), "inplace", False))
    if node.target in IN_PLACE or node.target is setitem or function_name(node.target).endswith("_"):
        return True
    # `F.relu(x, True)`; what else is told True by position is only not shared.
    return bool(node.kwargs.get("inplace")) or any(arg is True for arg in node.args)
