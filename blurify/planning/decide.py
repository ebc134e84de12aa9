"""Decide what happens to every site of a traced model. Pure: the model and its graphs are only read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import fx, nn

from blurify.errors import PlanError
from blurify.graph.module import TracedModule
from blurify.graph.nodes import called
from blurify.graph.paths import name_of
from blurify.layers import Blur
from blurify.planning.decision import Decision, OutputShift, kept
from blurify.planning.grid import Grid, Move, centered, move_of, output_maps, pixels
from blurify.planning.opaque import opaque_sites
from blurify.planning.placement import land
from blurify.planning.spec import Spec
from blurify.planning.stems import is_fed_by_tokens, is_stem
from blurify.positions import Layout, follow, has_positions, loses_positions
from blurify.rules import Context, Rule, recognise
from blurify.rules.resize import is_smooth
from blurify.rules.smoothed import is_smoothed
from blurify.sites import Action, Kind, Reason, Site
from blurify.tracing.shapes import Shape, Shapes

ShapesOf = Callable[[str], Shapes]


@dataclass(frozen=True)
class Found:
    """A site in one graph."""

    path: str
    node: fx.Node
    site: Site
    rule: Rule

    @property
    def absorbed(self) -> set[str]:
        """Return the paths of what a pool written by hand does before it reduces, which are no sites of their own."""
        inside = set(self.rule.absorbs(self.node)) if self.site.by_hand else set()
        return {node.meta["path"] for node in inside if set(node.users) <= inside | {self.node}}


def decide(
    traced: TracedModule, spec: Spec, shapes_of: ShapesOf
) -> tuple[tuple[Decision, ...], tuple[OutputShift, ...]]:
    """Return one decision for every site of either graph, in order, and how far the outputs' grids move.

    `shapes_of` tells the shapes of what the node at a path is fed and of what it gives, None where they are not known.
    """
    positions = positions_of(traced, shapes_of)
    context = Context(traced, lambda node: shapes_of(node.meta["path"]), positions)
    by_graph = [{found.path: found for found in find_sites(traced, graph, context)} for graph in traced.graphs]
    eval_sites, train_sites = by_graph[0], by_graph[-1]
    for path in eval_sites.keys() & train_sites.keys():
        if eval_sites[path].site != train_sites[path].site:
            raise PlanError(
                f"{path!r} names different ops in the graphs of .train() and .eval(), which cannot be told apart; give "
                "the model in one mode only, as torch.fx.symbolic_trace(model)."
            )
    sites = eval_sites | {path: found for path, found in train_sites.items() if path not in eval_sites}
    inside = {path for found in sites.values() for path in found.absorbed}
    sites = {path: found for path, found in sites.items() if path not in inside}
    spec.check_patterns_match(list(sites))
    decisions = []
    for path, found in sites.items():
        reason = reason_to_keep(found, traced, spec, shapes_of)
        if reason is None and is_across_channels(found, positions):
            reason = Reason.NOT_SPATIAL
        if reason is not None:
            decisions.append(kept(path, found.site, reason))
        else:
            decisions.append(rewritten(found, train_sites.get(path, found), traced, spec))
    listed = (*without_split_modules(decisions, sites, traced), *opaque_sites(traced))
    return on_grid((*listed, *unknown_ops(traced, positions, sites, listed)), sites, traced, spec, positions)


def on_grid(
    decisions: tuple[Decision, ...],
    sites: Mapping[str, Found],
    traced: TracedModule,
    spec: Spec,
    positions: Mapping[str, Layout],
) -> tuple[tuple[Decision, ...], tuple[OutputShift, ...]]:
    """Return the decisions, with the extra taps of even filters on the requested sides, and the outputs' shifts."""
    grid, named = Grid.of(traced.eval_graph, positions), output_maps(traced.eval_graph, positions)

    def moves() -> dict[str, Move]:
        rewritten = [d for d in decisions if d.action is Action.REWRITE]
        smooth = {d.site: is_smooth(sites[d.site].node, called(sites[d.site].node, traced)) for d in rewritten}
        return {d.site: move_of(d, sites[d.site].site, smooth[d.site], positions) for d in rewritten}

    if spec.grid == "centered":
        sides = centered(grid, moves(), [path for _, path in named])
        decisions = tuple(replace(d, side=sides.get(d.site, "")) for d in decisions)
    shifts = grid.shifts(moves().values())
    return decisions, tuple(OutputShift(name, pixels(shifts[path], positions[path])) for name, path in named)


def positions_of(traced: TracedModule, shapes_of: ShapesOf) -> dict[str, Layout]:
    """Return the dimensions along which positions lie, by path."""
    known = follow(traced.eval_graph, lambda node: shapes_of(node.meta["path"])[1], partial(called, traced=traced))
    return {node.meta["path"]: layout for node, layout in known.items()}


def is_across_channels(found: Found, positions: Mapping[str, Layout]) -> bool:
    """Return whether the op steps over axes that are no positions of a map."""
    source = found.node.all_input_nodes[0].meta["path"] if found.node.all_input_nodes else ""
    layout, axes = positions.get(source, ()), found.site.axes
    if not found.site.kind.traits.windows or len(layout) <= axes:
        return False
    stepped = [dim for dim, stride in zip(layout[-axes:], found.site.stride, strict=True) if stride > 1 and dim]
    return bool(stepped) and has_positions(layout) and not has_positions(stepped)


def unknown_ops(
    traced: TracedModule, positions: Mapping[str, Layout], sites: Mapping[str, Found], listed: Iterable[Decision]
) -> Iterator[Decision]:
    """Yield the ops that no rule knows and that reduce the resolution, by the sizes of what they read and give."""
    seen = set(sites) | {path for found in sites.values() for path in found.absorbed}
    opaque = tuple(f"{decision.site}." for decision in listed if not decision.kind.traits.rewritable)
    for node in traced.eval_graph.nodes:
        path = node.meta["path"]
        # Of slices that step, those that no rule takes are the second of a pair.
        known = path in seen or name_of(node) == "slice" or any(name.startswith(f"{path}.") for name in opaque)
        fed = [positions.get(source.meta["path"], ()) for source in node.all_input_nodes]
        maps, result = [layout for layout in fed if has_positions(layout)], positions.get(path, ())
        loses = partial(loses_positions, node, called(node, traced), result=result)
        if not known and maps and all(map(loses, maps)):
            yield Decision(path, Kind.OPAQUE, Action.KEEP, Reason.UNKNOWN_OP)


def find_sites(traced: TracedModule, graph: fx.Graph, context: Context) -> Iterator[Found]:
    """Yield every node of one graph that changes the resolution."""
    for node in graph.nodes:
        known = recognise(node, called(node, traced), context)
        if known is not None:
            yield Found(node.meta["path"], node, known[1], known[0])


def reason_to_keep(found: Found, traced: TracedModule, spec: Spec, shapes_of: ShapesOf) -> Reason | None:
    """Return the first reason that holds, or None for a site to rewrite."""
    if found.site.refusal is not None:
        return found.site.refusal
    if spec.excludes(found.path):
        return Reason.EXCLUDED
    if not spec.includes(found.path):
        return Reason.NOT_INCLUDED
    unblurred = Reason.NO_BLUR if spec.filter_at(found.path).strength == 0 else None
    return reason_of_kind(found, traced, spec, shapes_of) or unblurred


def reason_of_kind(found: Found, traced: TracedModule, spec: Spec, shapes_of: ShapesOf) -> Reason | None:
    """Return the reason to keep a site of this kind, if there is one."""
    path, site, traits = found.path, found.site, found.site.kind.traits
    if traits.windows and not site.by_hand and is_smoothed(found.node, site.stride, Context(traced)):
        return Reason.ALREADY_ANTIALIASED
    if traits.grows:
        return None if spec.upsample else Reason.UPSAMPLING
    if traits.learnt:
        return reason_to_keep_conv(found, traced, spec)
    if traits.averages and max(site.kernel_size) > 2:
        shape, _ = shapes_of(path)
        if shape is not None and covers(site, shape[-site.axes :]):
            return Reason.GLOBAL_POOL
    return None


def reason_to_keep_conv(found: Found, traced: TracedModule, spec: Spec) -> Reason | None:
    """Convs that the published networks keep: stems, and the patch embeddings of transformers."""
    path, site = found.path, found.site
    if is_blurred_at_landing(found, traced):
        return Reason.ALREADY_ANTIALIASED
    stem = not spec.inner and is_stem(found.node, traced, site.axes)
    cuts = bool(site.kernel_size) and all(1 < k <= s for k, s in zip(site.kernel_size, site.stride, strict=True))
    if cuts and (stem or is_fed_by_tokens(found.node, traced, site.axes)):
        return None if spec.wants_patch_embed(path) else Reason.PATCH_EMBED
    return Reason.STEM if stem and not spec.wants_stem(path) else None


def is_blurred_at_landing(found: Found, traced: TracedModule) -> bool:
    """Return whether a blur of ours follows already, as after a conv of stride 4, which keeps a stride of 2."""
    readers = list(land(found.node, found.site, traced).node.users)
    if len(readers) != 1 or readers[0].op != "call_module":
        return False
    return isinstance(traced.get_submodule(str(readers[0].target)), Blur)


def covers(site: Site, spatial: Shape) -> bool:
    """Return whether the window covers a map of these sizes, so that there is one output on every axis."""
    return all(k >= size + p for k, size, p in zip(site.kernel_size, spatial, site.padding, strict=True))


def rewritten(found: Found, in_training: Found, traced: TracedModule, spec: Spec) -> Decision:
    """Return the decision to rewrite a site, with the landing in each graph."""
    site, filt = found.site, spec.filter_at(found.path)
    place, train_place = land(found.node, found.site, traced), land(in_training.node, in_training.site, traced)
    path, train_path = place.node.meta["path"], train_place.node.meta["path"]
    return Decision(
        found.path,
        site.kind,
        Action.REWRITE,
        landing=path,
        train_landing="" if train_path == path else train_path,
        kernel_size=site.kernel_size,
        stride=site.stride,
        filt_size=tuple(filt.size if stride > 1 else 1 for stride in site.blur_stride),
        pad_type=spec.pad_type,
        filter=filt.kind,
        taps=filt.own,
        strength=filt.strength,
        statistics=place.statistics,
        detail=site.source,
        before=place.before,
        plain_resize=site.kind.traits.resizes and not spec.antialias_resize,
    )


def without_split_modules(
    decisions: list[Decision], sites: dict[str, Found], traced: TracedModule
) -> Iterator[Decision]:
    """Keep every call of a conv module that is to be rewritten in some calls only and cannot be split."""
    calls: dict[Any, set[str]] = defaultdict(set)
    for graph in traced.graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                calls[node.target].add(node.meta["path"])
    rewritten_paths = {d.site for d in decisions if d.action is Action.REWRITE}
    for decision in decisions:
        target = sites[decision.site].node.target
        split = decision.action is Action.REWRITE and not calls[target] <= rewritten_paths
        found = sites[decision.site]
        module = traced.get_submodule(str(target)) if split else None
        if module is not None and has_parameters(module) and not found.rule.can_be_function(module):
            yield kept(found.path, found.site, Reason.SHARED_MODULE)
        else:
            yield decision


def has_parameters(module: nn.Module) -> bool:
    """Return whether the module has names in the state_dict, so that it can stand at one place only."""
    return next(module.parameters(), None) is not None
