"""Carry a plan out on the modules of a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from blurify.errors import ArgumentError, PlanError, one_line
from blurify.graph.hosts import make_host, take_in_parts
from blurify.graph.module import TracedModule
from blurify.graph.tree import HOOKS, computed_copies, own_copy
from blurify.planning.decision import Decision
from blurify.rewriting.keep.borrowed import borrowing
from blurify.rewriting.keep.hoists import hoisted
from blurify.rewriting.keep.parts import modules_in_parts
from blurify.rewriting.keep.places import Landed, Place, Places, alike, behind_nothing
from blurify.rewriting.keep.strides import holder, proved, set_stride, whole
from blurify.rewriting.rewrite import Edit, locate, replacement
from blurify.rules import Replacement
from blurify.sites import Reason
from blurify.tracing.inputs import Inputs
from blurify.tracing.leaves import is_strided
from blurify.tracing.questions import OTHER_SIZES

M = TypeVar("M", bound=nn.Module)
AS_GRAPH = "convert it with form='graph' (--form graph)"


@dataclass(frozen=True)
class Kept(Generic[M]):
    """A converted copy of a model, the decisions that modules could not express, and what was optimized, in lines.

    `where` names, for each site, modules: the one that holds its stride, that whose output has its size, its blurs.
    """

    model: M
    left: dict[str, Decision]
    optimized: tuple[str, ...]
    where: dict[str, tuple[str, str, tuple[str, ...]]]


@dataclass(frozen=True)
class Changes:
    """Return the edit of each site that modules can express, and the decisions that they cannot, with the reason."""

    parts: dict[str, Replacement]
    holders: dict[str, str]
    strides: dict[str, tuple[int, ...]]
    places: dict[str, tuple[Place, ...]]
    left: dict[str, Decision]
    in_parts: dict[str, float]


def keep_class(
    model: M,
    traced: TracedModule,
    decisions: Iterable[Decision],
    inputs: Inputs | None,
    *,
    inplace: bool = False,
    optimize: bool = True,
    partial: bool = False,
) -> Kept[M]:
    """Return a copy of `model`, of its own class, in which the decisions are carried out.

    With `inplace` the copy uses the model's own parameters and buffers.

    Raises:
        PlanError: modules cannot express all decisions, and `partial` is not wanted.
        ArgumentError: the model cannot be copied.
    """
    changes = changes_for(model, traced, tuple(decisions), inputs, optimize)
    if changes.left and not partial:
        raise PlanError(refusal(model, changes))
    twin = copy_of(model, inplace)
    borrowed = borrowing(twin, model)
    if borrowed is not None:
        raise PlanError(
            f"{type(model).__name__} cannot keep its class, since the forward of {borrowed!r} was replaced by a "
            f"function that calls modules of this very object; {AS_GRAPH}."
        )
    # Of a module that is called at several sites, one site says what becomes of it.
    for path, site in {changes.holders[site]: site for site in changes.parts if site in changes.holders}.items():
        make_dense(twin, path, changes.parts[site].dense, changes.strides[site])
    blurs = {places: changes.parts[site].blur for site, places in changes.places.items()}
    for place, blur in ((place, blur) for places, blur in blurs.items() if blur is not None for place in places):
        make_host(twin.get_submodule(place.path), place.blurs, copy.deepcopy(blur))
    for path, channels in changes.in_parts.items():
        take_in_parts(twin.get_submodule(path), channels)
    return Kept(twin, changes.left, tuple(said(changes)), dict(where(changes)))


def where(changes: Changes) -> Iterator[tuple[str, tuple[str, str, tuple[str, ...]]]]:
    """Give each site with the paths of its modules, which the proofs look at."""
    for site in changes.parts:
        holder, places = changes.holders.get(site, ""), changes.places.get(site, ())
        blurs = tuple(f"{place.path}.{place.blurs}" for place in places) if changes.parts[site].blur else ()
        gives = places[0].path if blurs and places[0].hoisted else next(iter(blurs), holder)
        yield site, (holder, gives, blurs)


def said(changes: Changes) -> Iterator[str]:
    """Give a line for each optimization."""
    hoists = {place.path for each in changes.places.values() for place in each if place.hoisted}
    yield from (f"blur moved before the 1x1 conv at {path}" for path in sorted(hoists))
    if changes.in_parts:
        count = len(changes.in_parts)
        yield f"{count} module{'s' * (count > 1)} run{'s' * (count == 1)} in micro-batches"


def changes_for(
    model: nn.Module,
    traced: TracedModule,
    decisions: tuple[Decision, ...],
    inputs: Inputs | None,
    optimize: bool = True,
) -> Changes:
    """Find what can be done and what cannot; the model and the graphs are left as they are."""
    check_front_end(model, traced, decisions)
    edits = locate(traced, decisions)
    parts = parts_of(traced, decisions)
    holders = {edit.decision.site: path for edit in edits if (path := holder(edit, model)) is not None}
    known = proved(edits, holders, model, traced, inputs) if holders else set()
    holders = {site: path for site, path in holders.items() if site in known}
    fit = {site for site, each in parts.items() if is_expressible(each, edits, site, holders)}
    hoists = hoisted(model, traced, [d for d in decisions if d.site in fit]) if optimize else {}
    places = placed(model, traced, edits, parts, holders, fit, hoists)
    if hoists and len(places) < len(fit):
        plain = placed(model, traced, edits, parts, holders, fit, {})
        places = plain if len(plain) > len(places) else places
    left = {d.site: unexpressed(d, d.site in holders) for d in decisions if d.site not in places}
    strides = {edit.decision.site: edit.site.dense_stride for edit in edits}
    done = {site: each for site, each in parts.items() if site in places}
    landed = [landing(edit, parts) for edit in edits if edit.decision.site in done]
    in_parts = modules_in_parts(model, traced, edits, landed, places) if optimize else {}
    return Changes(done, holders, strides, places, left, in_parts)


def placed(
    model: nn.Module,
    traced: TracedModule,
    edits: list[Edit],
    parts: Mapping[str, Replacement],
    holders: Mapping[str, str],
    fit: set[str],
    hoists: Mapping[str, tuple[Place, ...]],
) -> dict[str, tuple[Place, ...]]:
    """Return the places of the sites that modules can express; none for a site whose own module blurs."""
    while True:
        able = whole(fit, edits, holders, {site: alike(each.dense) for site, each in parts.items()}, traced.graphs)
        landed = [landing(edit, parts) for edit in edits if edit.decision.site in able - hoists.keys()]
        places = Places(model, traced.graphs, [each for each in landed if each.alike]).chosen()
        places |= {site: hoists[site] for site in able & hoists.keys()}
        able = {site for site in able if parts[site].blur is None or site in places}
        if able == fit:
            return {site: places.get(site, ()) for site in able}
        fit = able


def check_front_end(model: nn.Module, traced: TracedModule, decisions: tuple[Decision, ...]) -> None:
    """Refuse a model of which no symbolic trace tells what its modules are called on."""
    front_end = str(traced.meta.get("front_end"))
    if decisions and front_end.startswith("torch.export"):
        raise PlanError(
            f"{type(model).__name__} cannot keep its class, since only {front_end} can trace it, which records "
            f"one control-flow path; {AS_GRAPH}."
        )
    elsewhere = next(strides_elsewhere(model, traced), None) if decisions and decides_by_sizes(traced) else None
    if elsewhere is not None:
        raise PlanError(
            f"{type(model).__name__} cannot keep its class, since its graph is one way through its forward, for sizes "
            f"like the example's, and the strided {elsewhere!r} is on another, of which there is no plan; {AS_GRAPH}."
        )
    if decisions and front_end != "torch.fx":
        raise PlanError(
            f"{type(model).__name__} cannot keep its class, since its graph comes from {front_end} and does not tell "
            f"what modules are called on; {AS_GRAPH}."
        )


def decides_by_sizes(traced: TracedModule) -> bool:
    """Return whether the graphs hold for sizes like the example's alone."""
    checks = (node.args[1] for graph in traced.graphs for node in graph.nodes if node.target is torch._assert)
    return any(OTHER_SIZES in str(message) for message in checks)


def strides_elsewhere(model: nn.Module, traced: TracedModule) -> Iterator[str]:
    """Yield the paths of strided modules that neither graph calls."""
    called = traced.leaf_paths()
    for path, module in model.named_modules():
        if is_strided(module) and not any(path == call or path.startswith(f"{call}.") for call in called):
            yield path


def parts_of(traced: TracedModule, decisions: tuple[Decision, ...]) -> dict[str, Replacement]:
    """Return each site's replacement; making it edits the graph, so it is made for another copy."""
    fresh = traced.shallow_copy()
    parts: dict[str, Replacement] = {}
    for edit in locate(fresh, decisions):
        if edit.decision.site not in parts:
            parts[edit.decision.site] = replacement(fresh, edit)
    return parts


def is_expressible(parts: Replacement, edits: list[Edit], site: str, holders: Mapping[str, str]) -> bool:
    """Return whether a module holds the site's stride, or the site has none."""
    grows = any(edit.decision.site == site and edit.decision.kind.traits.grows for edit in edits)
    return not parts.before and not parts.all_arguments and (grows or site in holders)


def landing(edit: Edit, parts: Mapping[str, Replacement]) -> Landed:
    """Return where the site is to be blurred in the edit's graph."""
    return Landed(edit.decision.site, behind_nothing(edit.landing), alike(parts[edit.decision.site].blur))


def unexpressed(decision: Decision, held: bool) -> Decision:
    """Return the decision to keep a site that modules cannot express."""
    nowhere = f"no module's only input or output is {decision.landing}, or its own module is called elsewhere too"
    return decision.kept(Reason.NO_MODULE, nowhere if held else "its stride is an argument of a function")


def refusal(model: nn.Module, changes: Changes) -> str:
    """Say which sites modules cannot express."""
    left = [f"{decision.site!r} ({decision.detail})" for decision in changes.left.values()]
    count = len(changes.parts) + len(left)
    return (
        f"{type(model).__name__} cannot keep its class, since modules cannot express {len(left)} of its {count} sites: "
        f"{', '.join(left)}; {AS_GRAPH}, or keep these sites as they are with partial=True (--partial)."
    )


def copy_of(model: M, inplace: bool) -> M:
    """Return a copy of the model, hooks and all; with `inplace` over the model's own parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())} if inplace else {}
    try:
        twin: M = own_copy(model, {**dict(computed_copies(model)), **shared})
    except Exception as error:
        fact = one_line(error)
        raise ArgumentError(f"{type(model).__name__} cannot be copied by copy.deepcopy: {fact}; {AS_GRAPH}.") from error
    return twin


def make_dense(twin: nn.Module, path: str, dense: nn.Module | None, stride: tuple[int, ...]) -> None:
    """Let the module at the path, which holds a site's stride, compute the dense op."""
    module = twin.get_submodule(path)
    if dense is None or type(dense) is type(module):
        set_stride(module, stride)
    else:
        replace_module(twin, module, dense)


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is, in the mode and with the hooks of `old`."""
    new.__dict__.update({name: getattr(old, name) for name in HOOKS})
    put(root, old, new.train(old.training))


def put(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is, whatever its mode."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
