"""Find the 1x1 convs that may be fed a blurred map instead of being blurred after; nothing is changed.

`blurify.optimizing.hoist_blur` states the law and where it pays. Here the conv must be a module whose every call is
such a conv, so that it can blur what it takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from blurify.errors import PlanError
from blurify.graph.edit import callers
from blurify.graph.hosts import BEFORE, can_host
from blurify.graph.module import TracedModule
from blurify.optimizing.hoist_blur import conv_before
from blurify.planning.decision import Decision
from blurify.rewriting.keep.places import Place, alike
from blurify.rewriting.rewrite import rewrite

Moved = tuple[fx.Node, fx.Node]


def hoisted(model: nn.Module, traced: TracedModule, decisions: Iterable[Decision]) -> dict[str, tuple[Place, ...]]:
    """Return the place of every site whose blur moves before a 1x1 conv."""
    fresh = traced.shallow_copy()
    try:
        rewrite(fresh, decisions)
    except PlanError:  # a module's other call is kept
        return {}
    blurring = [node for graph in fresh.graphs for node in graph.nodes if "blurs" in node.meta]
    moved: dict[str, list[Moved]] = {}
    for blur in blurring:
        conv = conv_before(blur, fresh)
        if conv is not None and conv.op == "call_module":
            moved.setdefault(str(conv.target), []).append((conv, blur))
    calls = callers(fresh)
    fitting = {path: pairs for path, pairs in moved.items() if _fits(model, fresh, path, pairs, calls[path])}
    path_of = {blur: path for path, pairs in fitting.items() for _, blur in pairs}
    found: dict[str, set[str]] = {}
    for blur in blurring:
        for site in blur.meta["blurs"]:
            found.setdefault(site, set()).add(path_of.get(blur, ""))
    return {
        site: (Place(min(paths), BEFORE, hoisted=True),)
        for site, paths in found.items()
        if len(paths) == 1 and "" not in paths
    }


def _fits(model: nn.Module, fresh: TracedModule, path: str, pairs: list[Moved], calls: set[fx.Node]) -> bool:
    """Return whether the module at the path can blur what it takes at all its calls, and alike."""
    if calls != {conv for conv, _ in pairs}:
        return False
    blurs = {alike(fresh.get_submodule(str(blur.target))) for _, blur in pairs}
    known = dict(model.named_modules())
    return len(blurs) == 1 and path in known and can_host(known[path], BEFORE)
