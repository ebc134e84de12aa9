"""Rewrite a traced model, and warn of what its graph loses of the model: hooks, and parts of `forward`."""

from __future__ import annotations

import warnings

from blurify.errors import HooksWarning, OmissionWarning
from blurify.graph.module import TracedModule
from blurify.graph.tree import has_hooks
from blurify.planning.plan import Plan, set_plan
from blurify.rewriting.rewrite import rewrite

# Of what a graph leaves out, so many are said.
MOST_SAID = 3
OF_GRAPHS = "The graph of"


def apply_traced(plan: Plan, traced: TracedModule, inplace: bool = False) -> TracedModule:
    """Rewrite a traced model, itself, over parameters of its own unless `inplace`."""
    name, unhooked, omitted = type(traced).__name__, traced.meta.get("unhooked"), traced.meta.get("omitted")
    if omitted:
        warnings.warn(left_out(name, omitted), OmissionWarning, stacklevel=3)
    if not inplace:
        traced.own_tree()
    hooked = [path for path in traced.leaf_paths() if has_hooks(traced.get_submodule(path))]
    rewrite(traced, plan.rewritten)
    lost = (*(unhooked or ()), *(path for path in hooked if not has_hooks(traced.get_submodule(path))))
    if lost:
        warnings.warn(lost_hooks(name, lost), HooksWarning, stacklevel=3)
    traced.meta |= {"unhooked": (), "omitted": (), "omitted_in": (), "left_out": omitted or ()}
    set_plan(traced, plan, "graph")
    return traced


def lost_hooks(name: str, paths: tuple[str, ...]) -> str:
    """Say which hooks the converted model does not run."""
    return (
        f"hooks of {', '.join(map(repr, paths))} in {name} are not carried over, since a graph does not call these "
        "modules; put them on layers, or on the converted model."
    )


def left_out(name: str, omitted: tuple[str, ...]) -> str:
    """Say what the graph of a model leaves out of its `forward`."""
    more = [f"{len(omitted) - MOST_SAID} more"] if len(omitted) > MOST_SAID else []
    said = "; ".join((*omitted[:MOST_SAID], *more))
    return (
        f"{OF_GRAPHS} {name} leaves out {said}. Convert it with form='class' (--form class), which runs "
        "the model's own forward."
    )
