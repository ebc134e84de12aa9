"""Find the modules that a large batch may pass a few samples at a time, so that dense maps stay in a processor's cache.

`blurify.optimizing.microbatch` states the law. Here a module runs its own forward on a part of the batch: it must treat
each sample by itself, and be of a class that is known to do nothing else. It subsamples once: later maps are small.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from math import prod

import torch
from torch import fx, nn

from blurify.graph.hosts import BlurWrapper
from blurify.graph.module import TracedModule
from blurify.graph.nodes import called, only_source
from blurify.optimizing.microbatch import conv_sizes, is_of_one_sample, spans_samples
from blurify.planning.positionwise import operator_name
from blurify.rewriting.keep.places import Landed, Place
from blurify.rewriting.rewrite import Edit
from blurify.tracing.calls import ModuleCall, calls_by_path, running

# Classes here compute their output from their input and set nothing aside.
HOMES = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.", "timm.layers.", "timm.models.")
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
JOINS = frozenset({operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul})


def modules_in_parts(
    model: nn.Module,
    traced: TracedModule,
    edits: Iterable[Edit],
    landed: Iterable[Landed],
    places: Mapping[str, tuple[Place, ...]],
) -> dict[str, float]:
    """Return the paths of the modules that take batches in parts, each with the channels of its largest map."""
    graph = traced.eval_graph
    landings = {each.site: each.node for each in landed if each.node.graph is graph}
    chosen: dict[str, float] = {}
    of_graph = [e for e in edits if e.node.graph is graph and e.decision.site in landings and e.site.axes == 2]
    strides = {e.node: prod(e.site.stride) // prod(e.site.dense_stride) for e in of_graph}
    subsampling = {landings[e.decision.site] for e in of_graph}
    finder = Finder(model, traced, subsampling, calls_by_path(graph))
    for edit in of_graph:
        landing, blurring = landings[edit.decision.site], places.get(edit.decision.site, ())
        if any(place.hoisted for place in blurring):
            continue
        call = finder.call_around(edit.node, landing, blurring)
        # A module that blurs and does nothing else gives a map that is small already.
        if call is not None and (blurring or call.path != str(edit.node.target)):
            chosen[call.path] = max(chosen.get(call.path, 0.0), finder.growth(call, landing, strides))
    return chosen


class Finder:
    """Finds the calls of one graph, in which the nodes `subsampling` are where sites are blurred."""

    def __init__(
        self, model: nn.Module, traced: TracedModule, subsampling: set[fx.Node], calls: Mapping[str, list[ModuleCall]]
    ) -> None:
        self.traced, self.subsampling, self.calls = traced, subsampling, calls
        self.modules = dict(model.named_modules())

    def call_around(self, site: fx.Node, landing: fx.Node, places: Iterable[Place]) -> ModuleCall | None:
        """Return the call that is to take the batch in parts, from the site to where it is blurred at least."""
        chain = set(self.chain_to(landing))
        around = [call for call in running(landing) if call in running(site) and call.path]
        chosen, held = None, 0
        for call in reversed(around if site in chain else []):
            more = sum(call in running(node) for node in chain)
            if chosen is not None and more == held:
                break
            within = all(f"{place.path}.".startswith(f"{call.path}.") for place in places)
            if within and all(self.is_apart(each) for each in self.calls[call.path]):
                chosen, held = call, more
        return chosen

    def chain_to(self, landing: fx.Node) -> Iterator[fx.Node]:
        """Give the nodes that lead to the landing and to nothing else, from it upwards."""
        node: fx.Node | None = landing
        while node is not None and self.keeps_samples_apart(node):
            yield node
            node = only_source(node)
            if node is not None and (len(node.users) != 1 or node in self.subsampling):
                return

    def is_apart(self, call: ModuleCall) -> bool:
        """Return whether the call does the same to each sample by itself, subsamples once and does nothing beside."""
        module = self.modules[call.path]
        if call.fed is None or call.beside or call.gives is None or not is_known(module):
            return False
        depth = {call.fed: 0}
        for node in call.fed.graph.nodes:
            if call not in running(node) or node.op == "get_attr":
                continue
            sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
            inside = all(source in depth for source in sources) and self.keeps_samples_apart(node)
            outside = any(call not in running(user) for user in node.users) and node is not call.gives
            if not inside or outside:
                return False
            depth[node] = max(depth[source] for source in sources) + (node in self.subsampling)
        return call.gives in depth and max(depth.values()) == 1

    def keeps_samples_apart(self, node: fx.Node) -> bool:
        """Return whether what the node gives for a sample depends on that sample alone."""
        if not node.all_input_nodes or any(spans_samples(held, self.traced) for held in node.all_input_nodes):
            return False
        if type(called(node, self.traced)) in POOLS or node.target in JOINS:
            return True
        if node.target is torch.cat:
            return bool((node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) == 1)
        if operator_name(node) == "mean":
            axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return isinstance(axes, (tuple, list)) and set(axes) <= {2, 3, -1, -2}
        return is_of_one_sample(node, self.traced)

    def growth(self, call: ModuleCall, landing: fx.Node, strides: Mapping[fx.Node, int]) -> float:
        """Return the channels of the largest map until the landing, at the size of the map that the call is fed."""
        largest, shrunk = 0.0, 1
        for node in landing.graph.nodes:
            if call in running(node):
                channels, stride = conv_sizes(node, self.traced)
                shrunk *= stride // strides.get(node, 1)
                largest = max(largest, channels / max(shrunk, 1))
            if node is landing:
                break
        return largest


def is_known(module: nn.Module) -> bool:
    """Return whether the module and all in it are of classes that do nothing besides what they give."""
    kinds = (each.original if isinstance(each, BlurWrapper) else type(each) for each in module.modules())
    changed = any("forward" in each.__dict__ for each in module.modules())
    return not changed and all(kind.__module__.startswith(HOMES) for kind in kinds)
