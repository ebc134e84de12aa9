"""Keep modules whole whose `forward` does what no graph can hold, so that the graph calls them and nothing is lost.

Layer drop, stop-gradients, autocast, losses left in attributes: these lie mostly in modules in which there
is nothing to rewrite. A module that holds a site or a landing is traced through all the same.
"""

from __future__ import annotations

from torch import nn

from blurify.errors import PlanError, TraceError
from blurify.graph.module import TracedModule
from blurify.planning.decision import Decision
from blurify.rewriting.rewrite import locate
from blurify.tracing import trace
from blurify.tracing.inputs import Inputs

# Within a module that stays whole there is nothing to find, but what is around it may do more of the same.
ROUNDS = 3


def with_wholes(
    traced: TracedModule, model: nn.Module, inputs: Inputs | None, decisions: tuple[Decision, ...]
) -> TracedModule:
    """Return a graph of the model that leaves out less than `traced`, and in which all decisions can be carried out."""
    whole: set[str] = set()
    for _ in range(ROUNDS):
        more = {path for path in traced.meta.get("omitted_in", ()) if may_be_whole(path, decisions)} - whole
        if not more:
            break
        whole |= more
        try:
            again = trace(model, inputs, symbolic=True, whole=whole | traced.meta["whole"])
            locate(again, decisions)
        except (PlanError, TraceError):
            break
        if len(again.meta["omitted"]) < len(traced.meta["omitted"]):
            traced = again
    return traced


def may_be_whole(path: str, decisions: tuple[Decision, ...]) -> bool:
    """Return whether the path is a module's in which nothing is to be done."""
    places = (place for d in decisions for place in (d.site, d.landing, d.train_landing))
    return bool(path) and not any(f"{place}.".startswith(f"{path}.") for place in places)
