"""Effects of functions, methods and operators of the same name on the dimensions of their first tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from blurify.graph.edit import is_first
from blurify.graph.paths import name_of
from blurify.positions.atoms import Atom, Dim, Layout, dim_of, regrouped

Shape = tuple[int, ...]

REGROUPS = frozenset(
    "view reshape flatten unflatten squeeze unsqueeze ravel view_as reshape_as _unsafe_view contiguous clone".split()
)
TRANSPOSITIONS = frozenset("transpose transpose_ swapaxes swapdims".split())
MOVES = REGROUPS | TRANSPOSITIONS | frozenset("permute movedim moveaxis unfold im2col".split())
REDUCTIONS = frozenset("mean sum amax amin max min median nanmean nansum logsumexp prod std var any all argmax".split())
UNFOLDING = ((1, "kernel_size", None), (2, "dilation", 1), (3, "padding", 0), (4, "stride", 1))
MEANS, SUMS, MAXIMA = frozenset({"mean"}), frozenset({"sum"}), frozenset({"amax", "max"})
WHOLE = slice(None)


def argument(node: fx.Node, position: int, *names: str, default: Any = None) -> Any:
    """Return an argument by its position or by any of its names."""
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), default)


def moved(node: fx.Node, layout: Layout, shape: Shape) -> Layout | None:
    """Return the layout of what a node makes of a tensor by moving its values alone; None for all other nodes."""
    name = name_of(node)
    if name in REGROUPS:
        return regrouped(layout, shape)
    if name in ("unfold", "im2col"):
        return _columns(node, layout, shape) if is_column_unfold(node) else _windows(node, layout)
    order = permutation(node, len(layout))
    return None if order is None else tuple(layout[dim] for dim in order)


def permutation(node: fx.Node, rank: int) -> list[int] | None:
    """Return where each dimension of a node's output comes from, for transpositions; None for all other nodes."""
    name, order = name_of(node), list(range(rank))
    if name == "permute":
        dims: Any = argument(node, 1, "dims")
        dims = node.args[1:] if isinstance(dims, int) else dims
        return [dim % rank for dim in dims] if _are_integers(dims) and len(dims) == rank else None
    if name in TRANSPOSITIONS:
        one, other = (argument(node, 1, "dim0", "axis0"), argument(node, 2, "dim1", "axis1"))
        return _swapped(order, one, other) if _are_integers((one, other)) else None
    if name in ("movedim", "moveaxis"):
        return _carried(order, argument(node, 1, "source"), argument(node, 2, "destination"))
    if name == "getattr" and node.args[1] in ("mT", "T") and rank >= 2:
        return _swapped(order, -2, -1) if rank == 2 or node.args[1] == "mT" else order[::-1]
    return None


def _swapped(order: list[int], one: int, other: int) -> list[int]:
    order[one], order[other] = order[other], order[one]
    return order


def _carried(order: list[int], source: Any, destination: Any) -> list[int] | None:
    sources, places = ([v] if isinstance(v, int) else v for v in (source, destination))
    if not _are_integers(sources) or not _are_integers(places):
        return None
    rank = len(order)
    moving = {place % rank: dim % rank for dim, place in zip(sources, places, strict=True)}
    rest = iter([dim for dim in order if dim not in moving.values()])
    return [moving[place] if place in moving else next(rest) for place in order]


def is_column_unfold(node: fx.Node) -> bool:
    """Return whether a node called `unfold` is `F.unfold`, which puts windows into channels, not `Tensor.unfold`."""
    return node.op == "call_function" and node.target is not torch.ops.aten.unfold.default


def _windows(node: fx.Node, layout: Layout) -> Layout | None:
    """Return what `Tensor.unfold` makes: the windows in the dimension's place, and a window's positions last."""
    given = [argument(node, 1, "dimension"), argument(node, 2, "size"), argument(node, 3, "step")]
    if not _are_integers(given) or len(layout[given[0]]) != 1:
        return None
    dim, size, step = given
    windows, window = _unfolded(layout[dim][0], size, step)
    dims = list(layout)
    dims[dim] = windows
    return (*dims, window)


def _columns(node: fx.Node, layout: Layout, shape: Shape) -> Layout | None:
    """Return what `F.unfold` makes of maps: the positions of a window behind the channels, and all windows last."""
    window, dilation, padding, step = (argument(node, at, name, default=usual) for at, name, usual in UNFOLDING)
    windows, steps = ((v, v) if isinstance(v, int) else v for v in (window, step))
    plainly = all(v in (usual, (usual,) * 2, [usual] * 2) for v, usual in ((dilation, 1), (padding, 0)))
    if not (plainly and _are_integers(windows) and _are_integers(steps) and len(layout) == 4):
        return None
    if any(len(dim) != 1 for dim in layout[2:]):
        return None
    pairs = [_unfolded(dim[0], k, s) for dim, k, s in zip(layout[2:], windows, steps, strict=True)]
    return layout[0], (*layout[1], *pairs[0][1], *pairs[1][1]), (*pairs[0][0], *pairs[1][0])


def _unfolded(atom: Atom, size: int, step: int) -> tuple[Dim, Dim]:
    """Return the windows of one axis, and the positions of a window."""
    windows = dim_of((atom.size - size) // step + 1, atom.axis, atom.step * step)
    return windows, dim_of(size, atom.axis, atom.step)


def reduced(node: fx.Node, layout: Layout) -> Layout | None:
    """Return the layout of a reduction over named dimensions, or over all; None for all other nodes."""
    dims = reduced_dims(node, len(layout))
    if dims is None:
        return None
    keep = argument(node, 2, "keepdim", "keepdims", default=False)
    kept = [(() if index in dims else dim) for index, dim in enumerate(layout) if keep or index not in dims]
    return tuple(kept)


def reduced_dims(node: fx.Node, rank: int) -> set[int] | None:
    """Return the dimensions that a node reduces; None for a node that reduces none, or does not tell which."""
    if name_of(node) not in REDUCTIONS:
        return None
    dims: Any = argument(node, 1, "dim", "axis", "dims")
    if dims is None or dims == [] or dims == ():
        return set(range(rank))
    dims = (dims,) if isinstance(dims, int) else dims
    return {dim % rank for dim in dims} if _are_integers(dims) else None


def indexed(node: fx.Node, layout: Layout, shape: Shape) -> Layout | None:
    """Return the layout of `x[index]` by integers, slices, None and an ellipsis; None for all other nodes."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return None
    parts: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    named = sum(part is not None and part is not Ellipsis for part in parts)
    rest = [WHOLE] * (len(layout) - named)
    at = parts.index(Ellipsis) if any(part is Ellipsis for part in parts) else len(parts)
    dims: list[Dim] = []
    waiting = list(layout)
    for part in (*parts[:at], *rest, *parts[at + 1 :]):
        if part is None:
            dims.append(())
        elif isinstance(part, slice) and waiting and len(dims) < len(shape):
            dims.append(sliced(waiting.pop(0), part.step, shape[len(dims)]))
        elif isinstance(part, (int, fx.Node)) and waiting:
            waiting.pop(0)
        else:
            return None
    return tuple(dims) if len(dims) == len(shape) else None


def sliced(dim: Dim, step: Any, size: int) -> Dim:
    """Return a dimension of which a slice takes so many positions."""
    total = 1
    for atom in dim:
        total *= atom.size
    step = step if isinstance(step, int) else 1
    if total == size and step == 1:
        return dim
    if len(dim) == 1:
        (atom,) = dim
        return dim_of(size, atom.axis, atom.step * step)
    return cut(dim, size)


def cut(dim: Dim, size: int) -> Dim:
    """Return a dimension of which some positions are left, and it is not told which."""
    if all(atom.axis is None for atom in dim):
        return dim_of(size)
    steps = [atom.step for atom in dim if atom.axis is not None]
    axes = {atom.axis for atom in dim if atom.axis is not None}
    return (Atom(axes.pop() if len(axes) == 1 else -1, size, min(steps)),) if size > 1 else ()


def _are_integers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(value) is int for value in values)


def first_item(node: fx.Node) -> fx.Node | None:
    """Return the one node that takes the first of a pair, where nobody reads the pair itself."""
    unpacked = all(user.target is operator.getitem for user in node.users)
    first = [user for user in node.users if is_first(user)]
    return first[0] if unpacked and len(first) == 1 else None


def upstream(node: fx.Node, reductions: frozenset[str]) -> Iterator[fx.Node]:
    """Yield the nodes that only move values, or reduce them alike, upwards from one on; then the node these read."""
    while True:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return
        yield source
        if not (is_first(source) or name_of(source) in reductions | MOVES):
            return
        node = source
