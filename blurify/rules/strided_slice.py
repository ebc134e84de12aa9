"""`x[..., ::2, ::2]` keeps every second position and forgets the rest: blur first, then slice.

Slices that between them take every phase of a map only move positions to channels, and lose nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx

from blurify.graph.arguments import are_known
from blurify.rules.base import Context, Replacement, Rule, steps_over_channels
from blurify.rules.downsampler import Downsampler
from blurify.rules.smoothed import is_smoothed
from blurify.sites import Kind, Reason, Site


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise an indexing whose slices step."""
    if node.op != "call_function" or node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return None
    index = node.args[1]
    steps = {dim: part.step for dim, part in enumerate(index) if isinstance(part, slice) and part.step not in (None, 1)}
    if not steps or steps_over_channels(node.args[0], _dims(index, steps), context):
        return None
    if not are_known(*steps.values()):
        return _refused((2,), Reason.DYNAMIC)
    stride = tuple(steps.values())
    if min(stride) > 1 and takes_all_phases(node, steps):
        return _refused(stride, Reason.ALL_PHASES)
    dims = spatial_dims(index, tuple(steps))
    if dims is None or min(stride) < 1:
        return _refused(stride, Reason.NOT_SPATIAL)
    reason = Reason.ALREADY_ANTIALIASED if is_smoothed(node, stride, context) else None
    ones = (1,) * len(stride)
    return Site(Kind.SLICE, ones, stride, (0,) * len(stride), ones, dims=dims, refusal=reason)


def _dims(index: tuple[Any, ...], steps: Iterable[int]) -> Iterator[int]:
    """Yield the dimensions of the map at these places of an index; a new axis before them moves them."""
    for at in steps:
        before = index[:at]
        yield at - len(index) + index[at:].count(None) if Ellipsis in before else at - before.count(None)


def _refused(stride: tuple[Any, ...], reason: Reason) -> Site:
    ones = (1,) * len(stride)
    return Site(Kind.SLICE, ones, stride, ones, ones, refusal=reason)


def spatial_dims(index: tuple[Any, ...], stepped: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the two neighbouring dimensions that are stepped over, if the index has the form of a map's; else None.

    Maps are `[..., ::s, ::s]` and `[:, :, ::s, ::s]` (channels first) or `[:, ::s, ::s]` and `[:, ::s, ::s, :]` (last).
    """
    if len(stepped) != 2 or stepped[1] != stepped[0] + 1:
        return None
    others = [part for dim, part in enumerate(index) if dim not in stepped]
    if index[0] is Ellipsis:
        return (-2, -1) if stepped == (1, 2) and len(index) == 3 else None
    if any(part != slice(None) for part in others if part is not Ellipsis):
        return None
    return stepped if stepped in ((2, 3), (1, 2)) else None


def takes_all_phases(node: fx.Node, steps: dict[int, int]) -> bool:
    """Return whether the source is sliced at every offset of the steps: space-to-depth, patch merging."""
    source = node.args[0]
    phases = set()
    for user in source.users if isinstance(source, fx.Node) else ():
        index = user.args[1] if user.target is operator.getitem else None
        if isinstance(index, tuple) and len(index) > max(steps):
            parts = [index[dim] for dim in steps]
            if all(isinstance(p, slice) and p.step == s for p, s in zip(parts, steps.values(), strict=True)):
                phases.add(tuple(p.start or 0 for p in parts))
    wanted = 1
    for step in steps.values():
        wanted *= step
    return len(phases) == wanted


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return a blur of the stepped dimensions before the slice."""
    return Replacement(None, down.before_slice(site), before=True)


RULE = Rule(recognise, replace)
