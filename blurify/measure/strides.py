"""How many pixels of a network's input one position of each of its maps stands for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

Pair = tuple[int, int]


def cumulative_strides(graph: fx.Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Pair]:
    """Of every map of a graph, how many pixels of the input one of its positions stands for, by path.

    A node's own stride is the rounded ratio of the sizes of its maps, so that convs without padding, which make maps
    smaller and subsample nothing, have 1.
    """
    strides: dict[str, Pair] = {}
    for node in graph.nodes:
        size = shapes.get(node.meta["path"], ())[2:]
        sources = [s.meta["path"] for s in node.all_input_nodes if s.meta["path"] in strides]
        if len(size) != 2:
            continue
        if not sources:
            strides[node.meta["path"]] = (1, 1)
            continue
        source = max(sources, key=lambda path: strides[path])
        own = [_step(before, after) for before, after in zip(shapes[source][2:], size, strict=True)]
        down, right = (max(1, round(stride * step)) for stride, step in zip(strides[source], own, strict=True))
        strides[node.meta["path"]] = (down, right)
    return strides


def _step(before: int, after: int) -> float:
    return float(round(before / after)) if before >= after else 1 / round(after / before)
