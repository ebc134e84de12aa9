"""Carry a plan out in one form or the other, and find the graph of a model of either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from blurify.errors import ArgumentError, PlanError
from blurify.graph.module import TracedModule
from blurify.optimizing import optimize_graphs
from blurify.planning.decision import Part, of_whole
from blurify.planning.plan import Plan, plan_of, set_plan
from blurify.rewriting.keep import keep_class
from blurify.rewriting.losses import apply_traced
from blurify.rewriting.origin import Origin
from blurify.rewriting.parts import with_parts
from blurify.rewriting.wholes import with_wholes
from blurify.tracing import trace
from blurify.tracing.inputs import Inputs, as_inputs

M = TypeVar("M", bound=nn.Module)
FORMS = ("auto", "class", "graph")


def carry_out(
    plan: Plan,
    model: nn.Module,
    inplace: bool,
    form: str,
    optimize: bool,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
) -> nn.Module:
    """Carry out a plan on a model that it fits; the body of `Plan.apply`."""
    inputs = as_inputs(example_inputs, example_kwargs)
    traced = None if plan.parts else trace(model, inputs)
    return carried_out(plan, model, traced, inputs, form, inplace, optimize=optimize)


def carried_out(
    plan: Plan,
    model: M,
    traced: TracedModule | None,
    inputs: Inputs | None,
    form: str,
    inplace: bool = False,
    *,
    optimize: bool,
    partial: bool = False,
) -> M | TracedModule:
    """Return the model, which `traced` records, with the plan carried out in the given form.

    With `inplace` the result uses the model's own parameters and buffers. A graph in the place of the class says why in
    `meta["blurify_why"]`. A model that cannot be traced whole is converted in parts.

    Raises:
        PlanError: modules cannot express all sites, and the form is "class" without `partial`.
    """
    if traced is None:
        return in_parts(plan, model, inputs, form, inplace, optimize)
    why = ""
    if form != "graph":
        try:
            return kept_class(plan, model, traced, inputs, inplace, optimize, partial and form == "class")
        except (PlanError, ArgumentError) as error:
            if form == "class":
                raise
            why = str(error).rpartition(";")[0]
    origin = Origin.of(model, inputs, optimize)
    traced = with_wholes(traced, model, inputs, plan.rewritten)
    with traced.edited():
        apply_traced(plan, traced, inplace)
        if optimize:
            optimize_graphs(traced)
    traced.meta["blurify_why"] = why
    traced.origin = origin
    return traced


def kept_class(
    plan: Plan,
    model: M,
    traced: TracedModule,
    inputs: Inputs | None,
    inplace: bool,
    optimize: bool,
    partial: bool,
) -> M:
    """Return a copy of the model, of its own class, with the plan carried out; see `blurify.rewriting.keep`."""
    kept = keep_class(model, traced, plan.rewritten, inputs, inplace=inplace, optimize=optimize, partial=partial)
    set_plan(kept.model, replace(plan, decisions=tuple(kept.left.get(d.site, d) for d in plan.decisions)), "class")
    meta = vars(kept.model)["meta"]
    meta["optimized"] = tuple(dict.fromkeys((*meta.get("optimized", ()), *kept.optimized)))
    meta["blurify_where"] = {**meta.get("blurify_where", {}), **kept.where}
    meta |= {key: traced.meta[key] for key in ("front_end", "refusals", "input_shapes") if key in traced.meta}
    return kept.model


def in_parts(plan: Plan, model: M, inputs: Inputs | None, form: str, inplace: bool, optimize: bool) -> M:
    """Return a copy of the model in which each part that the plan converts is converted by itself, in its place."""

    def convert(part: Part, module: nn.Module, root: str, call: Inputs) -> nn.Module:
        traced = trace(module, call, symbolic=True)
        # As a module, a layer alone keeps its hooks and the names of its weights.
        own = "auto" if root else form
        return carried_out(plan.of_part(part, root), module, traced, call, own, True, optimize=optimize, partial=True)

    converted = [part for part in plan.parts if not part.reason]
    twin, made = with_parts(model, converted, inputs, inplace, convert)
    done = [of_whole(d, path, root) for (path, root), each in made.items() for d in (plan_of(each) or plan).decisions]
    by_site = {d.site: d for d in done}
    set_plan(twin, Plan(tuple(by_site.get(d.site, d) for d in plan.decisions), plan.parts), "class")
    meta = vars(twin)["meta"]
    meta["optimized"] = tuple(line for each in made.values() for line in vars(each)["meta"]["optimized"])
    if inputs is not None and inputs.shapes() is not None:
        meta["input_shapes"] = inputs.shapes()
    return twin


def graph_of(converted: nn.Module) -> tuple[TracedModule, Plan] | None:
    """Return the graph of a converted model of either form, over its own parameters, and its plan; None of any other.

    As in the graph form, the nodes that blur say in `meta["blurs"]` for which sites they do.
    """
    plan = plan_of(converted)
    if plan is None or isinstance(converted, TracedModule):
        return None if plan is None or not isinstance(converted, TracedModule) else (converted, plan)
    sites_at: dict[str, tuple[str, ...]] = {}
    for site, (holder, _, blurs) in vars(converted)["meta"].get("blurify_where", {}).items():
        for path in blurs or (holder,):
            sites_at[path] = (*sites_at.get(path, ()), site)
    traced = trace(converted)
    for graph in traced.graphs:
        blurring = [node for node in graph.nodes if node.op == "call_module" and str(node.target) in sites_at]
        for node in blurring:
            sites, calls = sites_at[str(node.target)], [n for n in blurring if n.target == node.target]
            # Of one module that blurs at several sites, each call is one of them, in order.
            each = len(sites) == len(calls)
            node.meta["blurs"] = (sites[calls.index(node)],) if each else sites
    return traced, plan
