"""The converted model with filters of one tap: over its own parameters, or as a copy that may be trained."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn

from blurify.errors import ArgumentTypeError
from blurify.graph.edit import insert_after, set_module
from blurify.graph.hosts import AFTER, BEFORE, can_host, make_host
from blurify.graph.module import TracedModule
from blurify.graph.paths import node_paths
from blurify.graph.tree import computed_copies, own_copy
from blurify.layers import Blur
from blurify.planning.plan import Plan
from blurify.positions import first_item
from blurify.rewriting.carrying import graph_of


def with_plan(converted: nn.Module) -> tuple[TracedModule, Plan]:
    """Return the graph of what `blurify.antialias` returned, and its plan; anything else is refused."""
    found = graph_of(converted)
    if found is None:
        raise ArgumentTypeError(
            f"converted must be what blurify.antialias returned, with its plan; got a {type(converted).__name__}."
        )
    return found


def own_model(model: nn.Module) -> nn.Module:
    """Return a copy with parameters, buffers and modules of its own."""
    if isinstance(model, TracedModule):
        twin = model.shallow_copy()
        twin.own_tree()
        return twin
    copied: nn.Module = own_copy(model, dict(computed_copies(model)))
    return copied


def one_tap(converted: TracedModule, plan: Plan) -> TracedModule:
    """Return the converted graph with one-tap filters, over the same parameters.

    Where the plan crossed a norm's statistics, the subsampling goes back to the site: there it is exact.
    """
    return with_one_tap_nodes(converted.shallow_copy(), plan)


def with_one_tap_nodes(twin: TracedModule, plan: Plan) -> TracedModule:
    """Give a copy of the converted graph one-tap filters, in place; see `one_tap`."""
    statistics = {decision.site for decision in plan.rewritten if decision.statistics}
    with twin.edited():
        for graph in twin.graphs:
            for node in blurring(graph):
                layer = twin.get_submodule(str(node.target))
                if isinstance(layer, Blur):
                    set_module(twin, str(node.target), layer.with_filt_size(1))
            # A blur that several sites share stands where none of them crossed a norm.
            move_to_sites(graph, statistics)
    return twin


def subsample_at_sites(twin: TracedModule) -> None:
    """Move every subsampling of a one-tap twin back to its site: batch-norms in training are exact only so."""
    with twin.edited():
        for graph in twin.graphs:
            move_to_sites(graph, {site for node in blurring(graph) for site in node.meta["blurs"]})


def blurring(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that blur in the place of sites, which `meta["blurs"]` names."""
    return [node for node in graph.nodes if "blurs" in node.meta]


def move_to_sites(graph: fx.Graph, sites: set[str]) -> None:
    """Put the blurs of the sites right after their dense ops, where they stand somewhere behind."""
    paths = node_paths(graph)
    for node in blurring(graph):
        site, *others = node.meta["blurs"]
        dense = paths.get(site)
        dense = dense and (first_item(dense) or dense)
        if site in sites and not others and dense is not None and is_behind(node, dense):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
            insert_after(dense, str(node.target)).meta.update(node.meta)


def is_behind(node: fx.Node, other: fx.Node) -> bool:
    """Return whether the node reads what the other one gives, and there is something between them."""
    waiting, seen = list(node.all_input_nodes), set[fx.Node]()
    if other in waiting:
        return False
    while waiting:
        current = waiting.pop()
        if current is other:
            return True
        if current not in seen:
            seen.add(current)
            waiting += current.all_input_nodes
    return False


def where(converted: nn.Module) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Return, for each site of a model of its own class, what holds its stride, what has its size, and its blurs."""
    known: dict[str, tuple[str, str, tuple[str, ...]]] = getattr(converted, "meta", {}).get("blurify_where", {})
    return known


def with_one_tap_layers(twin: nn.Module, plan: Plan) -> nn.Module:
    """Give a copy of a model of its own class one-tap filters, in place; see `one_tap` for norms' statistics."""
    for module in list(twin.modules()):
        for name, child in module._modules.items():
            if isinstance(child, Blur):
                module._modules[name] = child.with_filt_size(1)
    places = where(twin)
    statistics = {decision.site for decision in plan.rewritten if decision.statistics}
    crossing = {places[site][2] for site in statistics if site in places}
    for holder, _, blurs in places.values():
        if blurs in crossing and blurs != (f"{holder}.{BEFORE}",):
            move_to_holder(twin, holder, blurs)
    return twin


def move_to_holder(twin: nn.Module, holder: str, blurs: tuple[str, ...]) -> None:
    """Let the module that holds a site's stride subsample what it gives, instead of the modules behind it."""
    module = twin.get_submodule(holder)
    for path in blurs:
        blur = twin.get_submodule(path)
        twin.set_submodule(path, nn.Identity())
        if isinstance(blur, Blur) and can_host(module, AFTER):
            make_host(module, AFTER, blur)


def with_original_strides(twin: nn.Module, original: nn.Module) -> None:
    """Let a one-tap twin subsample at its sites: its modules get the original's strides, and blurs beside them go."""
    for module in list(twin.modules()):
        for name in (BEFORE, AFTER):
            if isinstance(getattr(module, name, None), Blur):
                module._modules[name] = nn.Identity()
    theirs = dict(original.named_modules())
    for path, module in list(twin.named_modules()):
        known: Any = theirs.get(path)
        stride = getattr(known, "stride", None)
        # What is called so may be anything in somebody's own module.
        if not isinstance(stride, (int, tuple, list)) or stride == getattr(module, "stride", None):
            continue
        if isinstance(module, type(known)):
            module.stride = stride
        else:
            twin.set_submodule(path, copy.deepcopy(known).train(module.training))
