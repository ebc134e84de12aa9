"""`x[..., ::2, ::2] + x[..., 1::2, ::2] + ...` over all phases is a pool of sums; of maxima, a max pool.

The slices, one for every offset of the steps, are the positions of a window; the op that joins the last of them is the
site. A division after it stays where it is.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx

from blurify.graph.edit import reads_only_the_first, unpack_first
from blurify.graph.paths import name_of
from blurify.positions import MEANS, argument
from blurify.rules.base import Context, Replacement, Rule
from blurify.rules.downsampler import Downsampler
from blurify.rules.exported_slice import END, SLICE
from blurify.rules.hand_pool import KINDS, as_decided, is_map, pool, read_instead
from blurify.sites import Kind, Reason, Site

STACKS = frozenset({torch.stack, torch.ops.aten.stack.default})
FUNCTIONS: dict[Any, Kind] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, torch.ops.aten.add.Tensor), Kind.AVG),
    **dict.fromkeys((torch.maximum, torch.max, torch.ops.aten.maximum.default), Kind.MAX),
}
METHODS = {"add": Kind.AVG, "add_": Kind.AVG, "maximum": Kind.MAX, "max": Kind.MAX}


class Slice(NamedTuple):
    """Return the source of a slice, and the offset and step of each dimension that it steps over."""

    source: fx.Node
    steps: tuple[tuple[int, int, int], ...]


def joined(node: fx.Node) -> tuple[Kind, tuple[fx.Node, ...]] | None:
    """Return the kind of pool that an op of several maps may be a part of, and the maps; None for other nodes."""
    if name_of(node) in KINDS and _stacks(node):
        return KINDS[name_of(node)], tuple(argument(node.all_input_nodes[0], 0, "tensors"))
    kind = METHODS.get(str(node.target)) if node.op == "call_method" else FUNCTIONS.get(node.target)
    maps = tuple(arg for arg in node.args if isinstance(arg, fx.Node))
    # `sum(maps)` begins with the number 0.
    others = [arg for arg in node.args if not isinstance(arg, fx.Node)]
    fits = len(node.args) == 2 and not node.kwargs and (not others or (others == [0] and kind is Kind.AVG))
    return (kind, maps) if kind is not None and fits else None


def _stacks(node: fx.Node) -> bool:
    """Return whether a reduction is along the dimension along which maps were stacked."""
    (stack, *others) = node.all_input_nodes or [node]
    dims = argument(node, 1, "dim", "axis")
    along = argument(stack, 1, "dim", default=0)
    maps = argument(stack, 0, "tensors") if stack.target in STACKS else None
    whole = not others and isinstance(maps, (list, tuple)) and all(isinstance(part, fx.Node) for part in maps)
    # `max` gives indices as well.
    alone = name_of(node) != "max" or reads_only_the_first(node)
    dropped = len(node.args) < 3 and not node.kwargs.get("keepdim")
    return whole and alone and dropped and dims in (along, [along], (along,))


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise the sum or maximum of all phases of a map."""
    found = joined(node)
    kind = found[0] if found else None
    slices = [read(leaf) for leaf in leaves(node, kind)] if kind else []
    sources = {each.source for each in slices if each}
    if kind is None or None in slices or len(sources) != 1 or not reads_all(node):
        return None
    strides = {dim: step for dim, _, step in slices[0].steps} if slices[0] else {}
    phases = {each.steps for each in slices if each}
    alike = all({dim: step for dim, _, step in steps} == strides for steps in phases)
    if not strides or not alike or not len(phases) == len(slices) == prod(strides.values()):
        return None
    return _site(sources.pop(), strides, kind, context)


def reads_all(node: fx.Node) -> bool:
    """Return whether nothing else reads the slices; a wavelet's sums and differences together lose nothing."""
    inside = {node, *absorbed(node)}
    return all(user in inside for part in inside - {node} for user in part.users)


def _site(source: fx.Node, strides: dict[int, int], kind: Kind, context: Context) -> Site | None:
    if context.positions is None:
        return Site(kind, (), (1,), (), (), by_hand=True, refusal=Reason.UNKNOWN_SIZE)
    shape = context.shapes(source)[1]
    if shape is None or not is_map(source, context):
        return None
    steps = {dim % len(shape): step for dim, step in strides.items()}
    if min(steps) < 2 or any(shape[dim] % step for dim, step in steps.items()):
        return None
    stride = tuple(steps.get(dim, 1) for dim in range(2, len(shape)))
    nothing, ones = (0,) * len(stride), (1,) * len(stride)
    return Site(kind, stride, stride, nothing, ones, by_hand=True, source=source.meta["path"])


def leaves(node: fx.Node, kind: Kind | None) -> Iterator[fx.Node]:
    """Yield what is joined by ops of one kind."""
    for source in (joined(node) or (kind, ()))[1]:
        found = None if _is_mean(source) else joined(source)
        if found is not None and found[0] is kind:
            yield from leaves(source, kind)
        else:
            yield source


def _is_mean(node: fx.Node) -> bool:
    return name_of(node) in MEANS


def read(node: fx.Node) -> Slice | None:
    """Return what a slice, or a chain of slice operators, reads; None for all else."""
    if node.target is operator.getitem and isinstance(node.args[1], tuple) and isinstance(node.args[0], fx.Node):
        return _of_index(node.args[0], node.args[1])
    steps: dict[int, tuple[int, int]] = {}
    while node.target is SLICE:
        dim, start, end, step = (argument(node, at, name) for at, name in enumerate(("dim", "start", "end", "step"), 1))
        if not isinstance(node.args[0], fx.Node) or (end or END) != END or not isinstance(step or 1, int):
            return None
        if (start or 0, step or 1) != (0, 1):
            steps[dim or 0] = (start or 0, step or 1)
        node = node.args[0]
    return Slice(node, tuple((dim, *each) for dim, each in sorted(steps.items()))) if steps else None


def _of_index(source: fx.Node, index: tuple[Any, ...]) -> Slice | None:
    after = len(index) - index.index(Ellipsis) if Ellipsis in index else 0
    steps = []
    for at, part in enumerate(index):
        if part is Ellipsis or part == slice(None):
            continue
        if not isinstance(part, slice) or part.stop is not None or not isinstance(part.step, int) or part.step < 2:
            return None
        dim = at - len(index) if after and at >= len(index) - after else at
        steps.append((dim, part.start or 0, part.step))
    return Slice(source, tuple(steps))


def absorbed(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the slices and the ops that join them."""
    found = joined(node)
    for source in node.all_input_nodes:
        yield source
        inside = joined(source)
        if source.target in STACKS or source.target is SLICE or (inside and found and inside[0] is found[0]):
            yield from absorbed(source)


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return the pool, called on the map itself."""
    slices = read(next(leaves(node, site.kind)))
    summed = site.kind is Kind.AVG and not _is_mean(node)
    if name_of(node) == "max" and len(node.all_input_nodes) == 1:
        unpack_first(node)
    if slices is not None:
        read_instead(node, slices.source, list(absorbed(node)))
    return pool(node, site, down, summed)


RULE = Rule(recognise, replace, absorbs=absorbed, as_decided=as_decided)
