"""Less arithmetic for the same outputs: one algebraic law per file, and the one ordered tuple of passes.

Each pass is exact: with borders and biases, the optimized graph gives what the unoptimized one gives, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from blurify.graph.module import TracedModule
from blurify.optimizing import hoist_blur, microbatch

__all__ = ["PASSES", "optimize_graphs"]

Pass = Callable[[TracedModule, fx.Graph], list[str]]

# Chains are marked when all is where it stays.
PASSES: tuple[Pass, ...] = (hoist_blur.run, microbatch.run)


def optimize_graphs(traced: TracedModule) -> tuple[str, ...]:
    """Run every pass over every graph of a converted model, in place; say what was done, a line each.

    >>> import blurify, torchvision
    >>> optimize_graphs(blurify.antialias(torchvision.models.resnet18(), optimize=False))[0]
    'blur moved before the 1x1 conv at layer2.0.downsample.0'

    The lines are kept in `meta["optimized"]` too. Names of parameters and buffers stay as they are.
    """
    said: dict[str, None] = {}
    with traced.edited():
        for one in PASSES:
            for graph in traced.graphs:
                said.update(dict.fromkeys(one(traced, graph)))
    traced.meta["optimized"] = tuple(dict.fromkeys((*traced.meta.get("optimized", ()), *said)))
    return tuple(said)
