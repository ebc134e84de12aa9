"""What the passes ask of nodes."""

from __future__ import annotations

from typing import Any

from torch import fx

from blurify.graph_module import TracedModule


def called(node: fx.Node, traced: TracedModule) -> Any:
    """The module that the node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None
