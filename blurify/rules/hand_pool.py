"""Pooling written by hand: `x.view(n, c, h // 2, 2, w // 2, 2).mean((3, 5))` is an average pool, `amax` a max pool.

What makes it one is proved by following dimensions (`blurify.positions`): from the map to what is reduced, values are
only moved, and what is reduced is a window of each axis, whole and alone. The pool takes the place of the reduction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace as altered
from math import prod
from typing import Any

from torch import fx

from blurify.graph.edit import is_first, reads_only_the_first, unpack_first
from blurify.graph.paths import name_of
from blurify.layers import DENSE_MAX_POOLS
from blurify.positions import (
    MAXIMA,
    MEANS,
    SUMS,
    Atom,
    Layout,
    has_positions,
    is_column_unfold,
    moved,
    reduced,
    reduced_dims,
    sizes,
    upstream,
)
from blurify.rules.base import Context, Replacement, Rule
from blurify.rules.downsampler import Downsampler
from blurify.sites import Kind, Reason, Site

KINDS = {**dict.fromkeys(MEANS | SUMS, Kind.AVG), **dict.fromkeys(MAXIMA, Kind.MAX)}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a reduction that pools a map; where nothing is known of shapes, any that may, to be told by a plan."""
    kind = KINDS.get(name_of(node))
    # The maximum of two maps is no reduction.
    if kind is None or len(node.all_input_nodes) != 1 or not isinstance((*node.args, None)[0], fx.Node):
        return None
    if context.positions is None:
        return Site(kind, (), (1,), (), (), by_hand=True, refusal=Reason.UNKNOWN_SIZE)
    chain = [node]
    for source in upstream(node, alike(node)):
        site = site_of(source, chain, kind, context)
        if site is not None:
            return altered(site, source=source.meta["path"])
        chain.append(source)
    return None


def alike(node: fx.Node) -> frozenset[str]:
    """Return the names of the reductions of which several are one of the same kind."""
    name = name_of(node)
    return next((names for names in (MEANS, SUMS, MAXIMA) if name in names), frozenset())


def site_of(source: fx.Node, chain: list[fx.Node], kind: Kind, context: Context) -> Site | None:
    """Return the pool that a chain of moves and reductions is of one map, the last node first; None if it is none."""
    shape = context.shapes(source)[1]
    if shape is None or not is_map(source, context):
        return None
    # Dimensions themselves are followed from here, so that channels and the batch are seen to stay what they were.
    start: Layout = tuple((Atom(dim, size),) if size > 1 else () for dim, size in enumerate(shape))
    end = replayed(start, chain[::-1], context)
    return None if end is None else pool_of(start, *end, kind, chain[0])


def is_map(node: fx.Node, context: Context) -> bool:
    """Return whether what a node gives is known to be a batch of maps, with channels first."""
    layout = (context.positions or {}).get(node.meta["path"], ())
    whole = all(len(dim) == 1 and dim[0].axis is not None for dim in layout[2:])
    return 3 <= len(layout) <= 5 and whole and not has_positions(layout[:2])


def replayed(layout: Layout, chain: list[fx.Node], context: Context) -> tuple[Layout, Layout] | None:
    """Return the layout after a chain of moves and reductions, and the dimensions that it reduced."""
    dropped: Layout = ()
    for node in chain:
        shape = context.shapes(node)[1]
        after = None if shape is None else _step(node, layout, shape)
        if after is None or sizes(after[0]) != shape:
            return None
        layout, dropped = after[0], (*dropped, *after[1])
    return layout, dropped


def _step(node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> tuple[Layout, Layout] | None:
    if is_first(node):
        return layout, ()  # the values of a maximum, without its indices
    dims = reduced_dims(node, len(layout))
    if dims is None:
        after = moved(node, layout, shape)
        return None if after is None else (after, ())
    after = reduced(node, layout)
    usual = "dtype" not in node.kwargs
    return (after, tuple(layout[dim] for dim in dims)) if usual and after is not None else None


def pool_of(start: Layout, end: Layout, dropped: Layout, kind: Kind, node: fx.Node) -> Site | None:
    """Return the pool whose windows are what was reduced, and whose output is what is left; None if it is none."""
    gone = [atom for dim in dropped for atom in dim]
    windows, kept = {atom.axis: atom for atom in gone}, {atom.axis: atom for dim in end for atom in dim}
    spatial = range(2, len(start))
    if len(windows) != len(gone) or not windows or not set(windows) <= set(spatial):
        return None
    kernel_size = tuple(windows[dim].size if dim in windows else 1 for dim in spatial)
    stride = tuple(int(kept[dim].step) if dim in windows and dim in kept else 1 for dim in spatial)
    pooled = (*start[:2], *(_pooled(start[d], k, s) for d, k, s in zip(spatial, kernel_size, stride, strict=True)))
    flat = (*pooled[:2], tuple(atom for dim in pooled[2:] for atom in dim))
    pair = name_of(node) == "max" and not reads_only_the_first(node)
    if end not in (pooled, flat) or max(stride) == 1 or pair or any(window.step != 1 for window in windows.values()):
        return None
    nothing, ones = (0,) * len(stride), (1,) * len(stride)
    return Site(kind, kernel_size, stride, nothing, ones, by_hand=True)


def _pooled(dim: tuple[Atom, ...], size: int, step: int) -> tuple[Atom, ...]:
    """Return a dimension after windows of such a size, a step apart."""
    total = sizes((dim,))[0]
    length = (total - size) // step + 1
    return (Atom(dim[0].axis, length, dim[0].step * step),) if length > 1 else ()


def absorbed(node: fx.Node) -> Iterator[fx.Node]:
    """Yield what stands between the map and the reduction, and is no site of its own."""
    *between, _ = upstream(node, alike(node))
    yield from between


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return the pool, called on the map itself."""
    chain = list(upstream(node, alike(node)))
    if name_of(node) == "max":
        unpack_first(node)
    if any(name_of(moving) in ("unfold", "im2col") and is_column_unfold(moving) for moving in chain):
        node.meta["gives"] = after(node, "flatten", 2).meta["path"]
    read_instead(node, next(source for source in chain if source.meta["path"] == site.source), chain)
    return pool(node, site, down, summed=name_of(node) in SUMS)


def read_instead(node: fx.Node, source: fx.Node, between: Iterable[fx.Node]) -> None:
    """Let a node read a map, and take out what was between them and is read no more, the last first."""
    node.args, node.kwargs = (source,), {}
    for unread in between:
        if unread is not source and not unread.users:
            node.graph.erase_node(unread)


def pool(node: fx.Node, site: Site, down: Downsampler, summed: bool) -> Replacement:
    """Return the pool of a site without padding; a sum is the average of its window, times the window's area."""
    if site.kind is Kind.MAX:
        return Replacement(DENSE_MAX_POOLS[site.axes](site.kernel_size, site.stride), down.after_dense(site))
    if summed:
        after(node, "mul", prod(site.kernel_size))
    return Replacement(down.in_place_of_average(site), None)


def after(node: fx.Node, method: str, argument: int) -> fx.Node:
    """Let what read a node read what a method of it gives."""
    with node.graph.inserting_after(node):
        made = node.graph.call_method(method, (node, argument))
    made.meta["path"] = f"{node.meta['path']}_{method}"
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made


def as_decided(site: Site, decided: Site) -> Site:
    """Return the pool, which has no padding, with its window and the map that it reads, which shapes told."""
    nothing, ones = (0,) * decided.axes, (1,) * decided.axes
    window = decided.kernel_size, decided.stride, nothing, ones
    return Site(site.kind, *window, by_hand=True, refusal=site.refusal, source=decided.source)


RULE = Rule(recognise, replace, absorbs=absorbed, as_decided=as_decided)
