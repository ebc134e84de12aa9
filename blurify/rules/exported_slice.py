"""`x[..., ::2, ::2]` as `torch.export` writes it: one `aten.slice` an axis, the second reading the first alone.

The two are one site, at the first. Which dimensions are those of a map is told by their number, so it must be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Replacement, Rule, steps_over_channels
from blurify.rules.downsampler import Downsampler
from blurify.rules.smoothed import is_smoothed
from blurify.sites import Kind, Reason, Site

SLICE = torch.ops.aten.slice.Tensor
SIGNATURE = Signature(1, ("input", "dim", "start", "end", "step"))
DEFAULTS: dict[str, Any] = {"dim": 0, "start": None, "end": None, "step": 1}
END = 2**63 - 1
# Where a map's two axes are, by the number of its dimensions; a channels-last map of four has them in the middle.
SPATIAL = {4: ((2, 3), (1, 2)), 5: ((3, 4),)}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a slice operator that steps."""
    given = arguments(node)
    if given is None or given["step"] == 1:
        return None
    if not are_known(given["step"], given["dim"]):
        return _site((2,), (), Reason.DYNAMIC)
    source = given["input"]
    if isinstance(source, fx.Node) and second_of_pair(source) is node:
        return None
    second = second_of_pair(node)
    stepped = [given["dim"]] if second is None else [given["dim"], given["dim"] + 1]
    if steps_over_channels(source, stepped, context):
        return None
    if second is None:
        return _site((given["step"],), (), Reason.NOT_SPATIAL)
    dims = (given["dim"], given["dim"] + 1)
    return _site(steps_of(node, second), dims, _refusal(node, second, dims, context))


def arguments(node: fx.Node) -> dict[str, Any] | None:
    """Return the arguments of a slice operator, by name; None for all other nodes."""
    return DEFAULTS | bind(node, SIGNATURE) if node.op == "call_function" and node.target is SLICE else None


def second_of_pair(node: fx.Node) -> fx.Node | None:
    """Return the second slice of a pair of which this is the first; None for others, and for slices of three axes."""
    second, source = _follower(node), node.args[0] if node.args else None
    if second is None or _follower(second) is not None:
        return None
    return None if isinstance(source, fx.Node) and _follower(source) is node else second


def _follower(node: fx.Node) -> fx.Node | None:
    """Return the stepping slice of the next dimension that is the only reader of this stepping slice."""
    first, readers = arguments(node), list(node.users)
    second = arguments(readers[0]) if len(readers) == 1 else None
    if first is None or second is None or not are_known(first["step"], first["dim"], second["step"], second["dim"]):
        return None
    both_step = first["step"] != 1 and second["step"] != 1
    return readers[0] if both_step and second["dim"] == first["dim"] + 1 != 0 else None


def steps_of(first: fx.Node, second: fx.Node) -> tuple[int, ...]:
    """Return the steps of a pair."""
    return tuple((arguments(node) or DEFAULTS)["step"] for node in (first, second))


def _site(stride: tuple[int, ...], dims: tuple[int, ...], refusal: Reason | None) -> Site:
    ones = (1,) * len(stride)
    return Site(Kind.SLICE, ones, stride, (0,) * len(stride), ones, dims=dims, refusal=refusal)


def _refusal(node: fx.Node, second: fx.Node, dims: tuple[int, int], context: Context) -> Reason | None:
    if takes_all_phases(node, second):
        return Reason.ALL_PHASES
    if is_smoothed(node, steps_of(node, second), context):
        return Reason.ALREADY_ANTIALIASED
    shape = context.shapes(node)[0]
    if shape is None:
        return Reason.UNKNOWN_SIZE
    rank = len(shape)
    return None if tuple(dim % rank for dim in dims) in SPATIAL.get(rank, ()) else Reason.NOT_SPATIAL


def takes_all_phases(first: fx.Node, second: fx.Node) -> bool:
    """Return whether the source is sliced at every offset of the steps, as space-to-depth and patch merging do."""
    steps, dim = steps_of(first, second), (arguments(first) or DEFAULTS)["dim"]
    phases = set()
    for other in _slices_of(_origin(first)):
        partner = second_of_pair(other)
        if partner is not None and steps_of(other, partner) == steps and (arguments(other) or {})["dim"] == dim:
            phases.add(tuple((arguments(node) or DEFAULTS)["start"] or 0 for node in (other, partner)))
    return len(phases) == steps[0] * steps[1]


def _is_whole(node: fx.Node) -> bool:
    given = arguments(node)
    return given is not None and (given["start"] or 0, given["end"] or END, given["step"]) == (0, END, 1)


def _origin(node: fx.Node) -> fx.Node:
    """Return the source of a slice, through the full slices that export writes for `:`."""
    source = node.all_input_nodes[0]
    while _is_whole(source):
        source = source.all_input_nodes[0]
    return source


def _slices_of(source: fx.Node) -> Iterator[fx.Node]:
    for user in source.users:
        if _is_whole(user):
            yield from _slices_of(user)
        elif arguments(user) is not None:
            yield user


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return a blur of both dimensions before the first slice."""
    return Replacement(None, down.before_slice(site), before=True)


RULE = Rule(recognise, replace)
