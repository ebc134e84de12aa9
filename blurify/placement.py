"""Where the blur goes: down through position-wise, single-consumer nodes; and which convs are stems.

A decision made elsewhere is checked against the same: whatever a plan's text says, no blur goes where none may be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from blurify.decision import Decision
from blurify.errors import PlanError
from blurify.graph_module import TracedModule
from blurify.positionwise import Crossing, crossing, operator_name
from blurify.sites import Kind, Reason, Site
from blurify.tracing.constants import constant_tensor


@dataclass(frozen=True)
class Landing:
    """The node after which the blur goes, the paths of the statistics-taking norms on the way, and the way there.

    After any node of `way` the blur would be right, too: each is reached as the last one is.
    """

    node: fx.Node
    statistics: tuple[str, ...] = ()
    way: tuple[fx.Node, ...] = ()


def land(node: fx.Node, site: Site, traced: TracedModule) -> Landing:
    """Convs land after their norm and activation, slices before themselves; a pool is blurred at once, as published."""
    if site.kind is Kind.CONV:
        return landing(node, traced, site.axes)
    place = node.all_input_nodes[0] if site.kind is Kind.SLICE else node
    return Landing(place, way=(place,))


def check_fits(decision: Decision, node: fx.Node, site: Site, place: fx.Node, traced: TracedModule) -> None:
    """Refuse a decision to rewrite the site at `node`, blurred after `place`, that does not suit this model.

    Raises:
        PlanError: the site cannot be rewritten, is another one, or must not be blurred there.
    """
    # What needs an input to be known was known to whoever decided.
    unknown = site.refusal is Reason.UNKNOWN_SIZE
    if site.refusal is not None and not unknown:
        raise PlanError(f"the plan rewrites {decision.site!r}, which cannot be: {site.refusal.sentence}.")
    strides = "x".join(map(str, site.stride))
    known = not unknown and site.kind is not Kind.RESIZE
    if known and (len(decision.filt_size) != site.axes or decision.stride not in ((), site.stride)):
        raise PlanError(f"the plan rewrites {decision.site!r} as of another stride than its {strides} in this model.")
    if place not in land(node, site, traced).way:
        raise PlanError(
            f"the plan blurs {decision.site!r} after {place.meta['path']!r}, where a blur would not be of that "
            "site alone; plan this model anew."
        )


def landing(site: fx.Node, traced: TracedModule, axes: int) -> Landing:
    """Follow the only consumer as long as it acts on every position alone.

    So it stops before anything that mixes positions, joins branches, fans out or reads a size: each of those is a
    second consumer, or no position-wise node.
    """
    node, statistics, way = site, [], [site]
    while len(consumers := readers(node)) == 1:
        (consumer,) = consumers
        how = crossing(consumer, node, traced, axes)
        if how is Crossing.NEVER:
            break
        if how is Crossing.STATISTICS:
            statistics.append(consumer.meta["path"])
        node = consumer
        way.append(node)
    return Landing(node, tuple(statistics), tuple(way))


def readers(node: fx.Node) -> list[fx.Node]:
    """What reads more of a node than subsampling leaves as it is: checks of its rank or dtype are no consumers."""
    return [user for user in node.users if not _only_checks(user)]


def _only_checks(user: fx.Node) -> bool:
    if user.op == "call_function" and user.target is getattr:
        return user.args[1] in ("ndim", "dtype", "device")
    if user.op == "call_function" and user.target is torch.ops.aten._assert_tensor_metadata.default:
        return len(user.args) < 2 or user.args[1] is None
    return user.op == "call_method" and user.target in ("dim", "ndimension")


# What preprocessing inside a model does to channels before its stem: picked apart, scaled, put together again.
CHANNEL_OPS = frozenset(
    "cat chunk concat expand getitem narrow select slice split squeeze stack unbind unsqueeze".split()
)
CHANNEL_FUNCTIONS = {operator.getitem} | {getattr(torch, name) for name in CHANNEL_OPS if hasattr(torch, name)}


def is_stem(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Whether the conv is fed by the model's input through position-wise ops alone."""
    return _is_fed_by_input(site, lambda node: _keeps_positions(node, traced, axes))


def is_fed_by_picture(site: fx.Node, traced: TracedModule) -> bool:
    """Whether the conv is fed by the model's input through nothing that was learnt: a picture resized is a picture."""
    return _is_fed_by_input(site, lambda node: not _is_learnt(node, traced))


def _is_fed_by_input(site: fx.Node, passes: Callable[[fx.Node], bool]) -> bool:
    waiting: list[object] = [site.args[0] if site.args else next(iter(site.kwargs.values()), None)]
    seen: set[fx.Node] = set()
    reached_input = False
    while waiting:
        node = waiting.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder":
            reached_input = True
        elif node.op != "get_attr":
            if not passes(node):
                return False
            waiting.extend(node.all_input_nodes)
    return reached_input


def _is_learnt(node: fx.Node, traced: TracedModule) -> bool:
    if node.op == "call_module":
        return next(traced.get_submodule(str(node.target)).parameters(), None) is not None
    return any(isinstance(constant_tensor(source, traced), nn.Parameter) for source in node.all_input_nodes)


TOKEN_RESHAPES = frozenset({"view", "reshape", "unflatten"})
TRANSPOSITIONS = frozenset({"transpose", "permute", "movedim"})


def is_fed_by_tokens(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Whether the conv reads a map that was made of a sequence of tokens."""
    node = site.args[0] if site.args else None
    while isinstance(node, fx.Node):
        if node.op == "call_method" and node.target in TOKEN_RESHAPES:
            return True
        sources = node.all_input_nodes
        # Transposing alone makes no map: channels-last networks do it around every norm.
        transposed = node.op == "call_method" and node.target in TRANSPOSITIONS
        if len(sources) != 1 or (not transposed and crossing(node, sources[0], traced, axes) is Crossing.NEVER):
            return False
        node = sources[0]
    return False


def _keeps_positions(node: fx.Node, traced: TracedModule, axes: int) -> bool:
    if operator_name(node) in CHANNEL_OPS or (node.op == "call_function" and node.target in CHANNEL_FUNCTIONS):
        return True
    return any(crossing(node, source, traced, axes) is not Crossing.NEVER for source in node.all_input_nodes)
