"""Equal blurs of one tensor are one: `B(x)` read twice is computed once, unless `x` is written to."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from blurify.graph.module import TracedModule
from blurify.graph.nodes import called, writes
from blurify.layers import Blur


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Let the readers of every blur read the first one that is equal to it."""
    said = []
    first: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        layer = called(node, traced)
        if "blurs" not in node.meta or not isinstance(layer, Blur):
            continue
        if any(writes(user, traced) for source in node.all_input_nodes for user in source.users):
            continue
        kept = first.setdefault((type(layer), settings(layer), node.args), node)
        if kept is not node and same_filter(layer, traced.get_submodule(str(kept.target))):
            said.append(f"blur at {node.meta['path']} shared with {kept.meta['path']}")
            node.replace_all_uses_with(kept)
            kept.meta["blurs"] = (*kept.meta["blurs"], *node.meta["blurs"])
            graph.erase_node(node)
    return said


def settings(layer: Blur) -> str:
    """All that the layer was asked for: what it prints of itself leaves out what is rarely asked."""
    return repr(sorted((name, value) for name, value in vars(layer).items() if not name.startswith("_")))


def same_filter(one: Blur, other: Any) -> bool:
    """Return whether two layers filter alike."""
    meta = one.filt.is_meta or other.filt.is_meta
    return meta or torch.equal(one.filt, other.filt)
