"""Where the blur goes: down through regions of position-wise nodes with one entry and one exit.

A decision made elsewhere is checked against the same: whatever a plan's text says, no blur goes where none may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from blurify.errors import PlanError
from blurify.graph.module import TracedModule
from blurify.graph.paths import name_of
from blurify.planning.decision import Decision
from blurify.planning.positionwise import (
    Map,
    Value,
    canonical,
    is_canonical,
    is_free,
    is_unread,
    operator_name,
    position_wise,
    takes_statistics,
)
from blurify.positions import first_item
from blurify.sites import Lands, Reason, Site


@dataclass(frozen=True)
class Landing:
    """The node after which the blur goes, the paths of the statistics-taking norms on the way, and the way there.

    After any node of `way` the blur would be right, too: each is reached as the last one is. `before` is the path of
    the squeeze-excite that follows, if one does.
    """

    node: fx.Node
    statistics: tuple[str, ...] = ()
    way: tuple[fx.Node, ...] = ()
    before: str = ""


def land(node: fx.Node, site: Site, traced: TracedModule) -> Landing:
    """Convs land after their norm and activation, slices before themselves; a pool is blurred at once, as published."""
    lands = site.kind.traits.lands
    if lands is Lands.FURTHER:
        return landing(node, traced, site.axes)
    given = first_item(node) if site.pair else None
    place = node.all_input_nodes[0] if lands is Lands.BEFORE else given or node
    return Landing(place, way=(place,))


def check_fits(decision: Decision, node: fx.Node, site: Site, place: fx.Node, traced: TracedModule) -> None:
    """Refuse a decision to rewrite the site at `node`, blurred after `place`, that does not suit this model.

    Raises:
        PlanError: the site cannot be rewritten, is another one, or must not be blurred there.
    """
    # What needs an input to be known was known to whoever decided.
    unknown = site.refusal is Reason.UNKNOWN_SIZE
    if site.refusal is not None and not unknown:
        raise PlanError(f"The plan rewrites {decision.site!r}, which cannot be: {site.refusal.sentence}.")
    strides = "x".join(map(str, site.stride))
    if not unknown and (len(decision.filt_size) != site.axes or decision.stride not in ((), site.stride)):
        raise PlanError(f"The plan rewrites {decision.site!r} as of another stride than its {strides} in this model.")
    if place not in land(node, site, traced).way:
        raise PlanError(
            f"The plan blurs {decision.site!r} after {place.meta['path']!r}, where a blur would not be of that "
            "site alone; plan this model again."
        )


def landing(site: fx.Node, traced: TracedModule, axes: int) -> Landing:
    """Return the last node that all of a conv's map goes through, as long as everything acts on positions alone.

    Between two such nodes is a region with one entry and one exit: a subsampling commutes with every node of it. So the
    landing is before anything that mixes positions, joins what comes from elsewhere, reads a spatial size or fans out.
    """
    values = region(site, traced, axes)
    way = [node for node in exits(values) if may_blur(values[node], axes)]
    passed = list(values)[: list(values).index(way[-1]) + 1]
    statistics = [node.meta["path"] for node in passed if takes_statistics(node, traced)]
    return Landing(way[-1], tuple(statistics), tuple(way), squeeze_excite(way[-1], traced))


def region(site: fx.Node, traced: TracedModule, axes: int) -> dict[fx.Node, Value]:
    """Return what each node gives that follows from the site's map position by position, up to the first that does not.

    What comes later in the graph can be no exit: the map has another reader by then.
    """
    values: dict[fx.Node, Value] = {site: Map(canonical(axes, is_batched(site, traced, axes)))}
    node = site.next
    while node.op != "root":
        read = [values[source] for source in node.all_input_nodes if source in values]
        value = position_wise(node, values, traced) if read else None
        if value is not None:
            values[node] = value
        elif not all(map(is_free, read)) and not is_unread(node):
            break
        node = node.next
    return values


def is_batched(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Return whether the site's map has an axis of samples, as all but rare models have."""
    known = site.meta.get("val")
    if isinstance(known, Tensor):
        return known.dim() == axes + 2
    return all(len(shape) != axes + 1 for shape in traced.meta.get("input_shapes") or ())


def exits(values: Mapping[fx.Node, Value]) -> Iterator[fx.Node]:
    """Yield the nodes that everything before has come to: nothing before is read by anything behind."""
    place = {node: index for index, node in enumerate(values)}
    furthest = 0
    for node, value in values.items():
        if is_free(value):
            continue
        if furthest <= place[node]:
            yield node
        reached = (place.get(user, len(place)) for user in readers(node) if not is_free(values.get(user)))
        furthest = max(furthest, *reached, 0)


def may_blur(value: Value, axes: int) -> bool:
    """Return whether a blur layer takes the value."""
    return isinstance(value, Map) and value.floating and is_canonical(value.layout, axes)


# Means and maxima over the whole map, and the modules that take them.
POOLS = re.compile("^mean$|^amax$|adaptive.*pool|global.*pool", re.IGNORECASE)


def squeeze_excite(node: fx.Node, traced: TracedModule) -> str:
    """Return the path of the product of a node's map and what is computed of a pool of it; empty if there is none."""
    products = [user for user in node.users if operator_name(user).rstrip("_") in ("mul", "multiply")]
    gated = (user for user in products if any(_is_pooled(gate, node, traced) for gate in user.all_input_nodes))
    return next((str(user.meta["path"]) for user in gated), "")


def _is_pooled(gate: fx.Node, node: fx.Node, traced: TracedModule) -> bool:
    """Return whether all that the gate reads is a pool of the node."""
    pooled, waiting, seen = False, [gate], {node}
    while waiting:
        current = waiting.pop()
        if current in seen or current.op == "get_attr":
            continue
        seen.add(current)
        if current.op == "placeholder":
            return False
        called = traced.get_submodule(str(current.target)) if current.op == "call_module" else None
        pooled = pooled or bool(POOLS.search(type(called).__name__ if called else name_of(current)))
        waiting.extend(current.all_input_nodes)
    return pooled


# What has no parameters.
NOTHING = nn.Module()


def readers(node: fx.Node) -> list[fx.Node]:
    """Return what reads more of a node than subsampling leaves as it is: checks of its rank or dtype do not.

    Nor does what is unpacked and then not used.
    """
    return [user for user in node.users if not _only_checks(user)]


def _only_checks(user: fx.Node) -> bool:
    if user.op == "call_module":
        return False
    if is_unread(user):
        return True
    return is_free(position_wise(user, {source: Map("bcyx") for source in user.all_input_nodes}, NOTHING))
