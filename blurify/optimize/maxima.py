"""A maximum that a filter of one tap follows is taken only where that reads it: `S_s(M(x)) = M_s(x)`.

`M` is a max pool at stride 1 and `M_s` the same at stride `s`; `S_s` keeps every `s`-th position, which is all that a
blur of one tap does. The maxima are the same ones, at the border and of `ceil_mode` too, since the dense pool is made
to be as long as its every `s`-th output needs (`functional.dense_max_pool`).

Both become one layer that blurs, so that the site is known to be done. A filter of two taps or more reads every
position, but for one shorter than its stride (two taps at a stride of 3). Picking out what that reads takes two to
seven times as long as all maxima, one window at batch 1 aside (`python -m benchmarks.alternatives`): it is not done.
"""

from __future__ import annotations

from torch import fx

from blurify.graph_module import TracedModule
from blurify.layers import BLUR_POOLS, DENSE_MAX_POOLS, MAX_BLUR_POOLS
from blurify.optimize.nodes import called, only_source
from blurify.rewrite import callers
from blurify.rules import set_module
from blurify.tree import has_hooks

DENSE = tuple(DENSE_MAX_POOLS.values())
BLURS = tuple(BLUR_POOLS.values())


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Let every max pool whose calls are all subsampled at once be one at its stride."""
    said = []
    for node in list(graph.nodes):
        pool = called(node, traced)
        calls = callers(traced)[str(node.target)] if isinstance(pool, DENSE) else set()
        if not isinstance(pool, DENSE) or not all(is_subsampled(call, traced) for call in calls):
            continue
        window = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
        set_module(traced, str(node.target), MAX_BLUR_POOLS[pool.axes](*window, filt_size=1))
        for call in calls:
            fuse(call)
        said.append(f"maxima taken only where they are read at {node.meta['path']}")
    return said


def is_subsampled(node: fx.Node, traced: TracedModule) -> bool:
    """Whether the max pool is read by nothing but a filter of one tap that takes its stride."""
    pool, (reader, *others) = called(node, traced), list(node.users) or [node]
    blur = called(reader, traced)
    if others or "blurs" not in reader.meta or not isinstance(blur, BLURS) or only_source(reader) is not node:
        return False
    one_tap = blur.filt.numel() == 1 and blur.pad_off == 0 and blur.stride == pool.stride
    return one_tap and not has_hooks(pool) and not has_hooks(blur)


def fuse(node: fx.Node) -> None:
    """Let what reads the filter read the pool, which blurs in its place."""
    (blur,) = node.users
    blur.replace_all_uses_with(node)
    node.meta["blurs"] = blur.meta["blurs"]
    node.graph.erase_node(blur)
