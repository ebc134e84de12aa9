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

from blurify.decision import Blurring
from blurify.positions import argument
from blurify.rules.base import Context, Parts, Rule
from blurify.rules.exported_slice import END, SLICE
from blurify.rules.hand_pool import is_map, pool, read_instead
from blurify.sites import Kind, Reason, Site

KINDS: dict[Any, Kind] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, torch.ops.aten.add.Tensor), Kind.AVG),
    **dict.fromkeys((torch.maximum, torch.max, torch.ops.aten.maximum.default), Kind.MAX),
}
METHODS = {"add": Kind.AVG, "add_": Kind.AVG, "maximum": Kind.MAX, "max": Kind.MAX}


class Slice(NamedTuple):
    """What a slice reads, and of each dimension that it steps over the offset and the step."""

    source: fx.Node
    steps: tuple[tuple[int, int, int], ...]


def kind_of(node: fx.Node) -> Kind | None:
    """Return the kind of pool that an op of two maps may be a part of."""
    if len(node.args) != 2 or node.kwargs or not all(isinstance(arg, fx.Node) for arg in node.args):
        return None
    if node.op == "call_method":
        return METHODS.get(str(node.target))
    return KINDS.get(node.target) if node.op == "call_function" else None


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise the sum or maximum of all phases of a map."""
    kind = kind_of(node)
    slices = [read(leaf) for leaf in leaves(node, kind)] if kind else []
    sources = {each.source for each in slices if each}
    if kind is None or None in slices or len(sources) != 1:
        return None
    strides = {dim: step for dim, _, step in slices[0].steps} if slices[0] else {}
    phases = {each.steps for each in slices if each}
    alike = all({dim: step for dim, _, step in steps} == strides for steps in phases)
    if not strides or not alike or not len(phases) == len(slices) == prod(strides.values()):
        return None
    return _site(sources.pop(), strides, kind, context)


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
    for source in node.all_input_nodes:
        if kind_of(source) is kind:
            yield from leaves(source, kind)
        else:
            yield source


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
    kind = kind_of(node)
    for source in node.all_input_nodes:
        yield source
        if kind_of(source) is kind or source.target is SLICE:
            yield from absorbed(source)


def replace(node: fx.Node, module: Any, site: Site, blurring: Blurring) -> Parts:
    """The pool, called on the map itself."""
    slices = read(next(leaves(node, kind_of(node))))
    if slices is not None:
        read_instead(node, slices.source, list(absorbed(node)))
    return pool(node, site, blurring, summed=site.kind is Kind.AVG)


RULE = Rule(recognise, replace, absorbs=absorbed)
