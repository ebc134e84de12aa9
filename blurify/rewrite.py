"""Do what the decisions say: the dense op in the site's place, the blur at the landing. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from torch import fx, nn

from blurify.decision import Decision
from blurify.errors import PlanError
from blurify.graph_module import TracedModule
from blurify.layers import Blur
from blurify.rules import Context, Parts, Rule, recognise, set_module
from blurify.rules.conv import as_function
from blurify.sites import Site
from blurify.tracing.paths import node_paths


@dataclass(frozen=True)
class Edit:
    """One decision, located in one graph."""

    decision: Decision
    rule: Rule
    site: Site
    node: fx.Node
    landing: fx.Node
    module: nn.Module | None


def rewrite(traced: TracedModule, decisions: Iterable[Decision]) -> None:
    """Rewrite the sites of `decisions` in every graph of `traced`, in place.

    Raises:
        PlanError: a site or landing is not in the model.
    """
    edits = locate(traced, tuple(decisions))
    calls = callers(traced)
    edited = {edit.node for edit in edits}
    for edit in edits:
        # A module that a kept call still needs keeps its stride, so this call gets a dense op elsewhere.
        free = calls.get(str(edit.node.target), set()) <= edited
        apply_edit(traced, edit, free)
    traced.recompile_all()


def callers(traced: TracedModule) -> dict[str, set[fx.Node]]:
    """For every module path, the nodes that call it."""
    calls: dict[str, set[fx.Node]] = {}
    for graph in traced.graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), set()).add(node)
    return calls


def locate(traced: TracedModule, decisions: tuple[Decision, ...]) -> list[Edit]:
    """Find the decisions' nodes in all graphs, before any is edited."""
    edits: list[Edit] = []
    found: set[str] = set()
    for graph in traced.graphs:
        paths = node_paths(graph)
        for decision in decisions:
            if decision.site in paths:
                edits.append(_locate(traced, graph, paths, decision))
                found.add(decision.site)
    for decision in decisions:
        if decision.site not in found:
            raise PlanError(
                f"the plan rewrites {decision.site!r}, which is not a node of this {type(traced).__name__}."
            )
    return edits


def _locate(traced: TracedModule, graph: fx.Graph, paths: dict[str, fx.Node], decision: Decision) -> Edit:
    node = paths[decision.site]
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    known = recognise(node, module, Context(traced))
    if known is None or known[1].kind is not decision.kind:
        raise PlanError(
            f"the plan rewrites {decision.site!r} as a strided {decision.kind}, which it is not in this model."
        )
    training = decision.train_landing and graph is not traced.eval_graph
    landing = decision.train_landing if training else decision.landing
    if landing not in paths:
        raise PlanError(f"the plan blurs {decision.site!r} after {landing!r}, which is not a node of this model.")
    return Edit(decision, known[0], known[1], node, paths[landing], module)


def apply_edit(traced: TracedModule, edit: Edit, free: bool) -> None:
    """Rewrite one site in one graph."""
    decision, node, graph = edit.decision, edit.node, edit.node.graph
    parts = edit.rule.replace(node, edit.module, edit.site, decision.filt_size, decision.pad_type)
    landing = edit.landing
    settle(parts, edit.module, traced)
    if parts.dense is not None and (free or not parts.has_parameters):
        path = dense_path(decision, node, free)
        if not free or node.op != "call_module":
            check_free(traced, path)
        set_module(traced, path, parts.dense)
        if node.op != "call_module" and not parts.all_arguments:
            source = node.args[0] if node.args else node.kwargs["input"]
            node.args, node.kwargs = (source,), {}
        node.op, node.target = "call_module", path
    elif parts.dense is not None and edit.module is not None:
        as_function(node, edit.module, edit.site)
    if parts.blur is not None:
        path = f"{decision.site}_blur"
        check_free(traced, path)
        set_module(traced, path, parts.blur)
        insert_after(graph, landing, path, only=node if parts.before else None)


def check_free(traced: TracedModule, path: str) -> None:
    """Refuse to put a layer where the model has something of its own that it uses."""
    parent, _, name = path.rpartition(".")
    owner: nn.Module = traced
    for part in parent.split(".") if parent else ():
        if part not in owner._modules:
            return
        owner = owner.get_submodule(part)
    existing = owner._modules.get(name)
    tensor = name in owner._parameters or name in owner._buffers
    used = existing is not None and (path in traced.leaf_paths() or next(existing.parameters(), None) is not None)
    if tensor or (used and not type(existing).__module__.startswith("blurify.")):
        raise PlanError(
            f"the model has its own {path!r}, where a layer of the rewrite would go; rename it or exclude the site."
        )


def settle(parts: Parts, module: nn.Module | None, traced: TracedModule) -> None:
    """Put the new layers, whose only tensors are filters, on the device of the site's weights, else of the model's."""
    owners = [owner for owner in (module, traced) if owner is not None]
    tensors = (tensor for owner in owners for tensor in chain(owner.parameters(), owner.buffers()))
    known = next(tensors, None)
    for layer in (parts.dense, parts.blur):
        if isinstance(layer, Blur) and known is not None:
            layer.to(known.device)


def dense_path(decision: Decision, node: fx.Node, free: bool) -> str:
    """Where the dense module goes: in the original's place, or beside it."""
    if node.op != "call_module":
        return decision.site
    return str(node.target) if free else f"{decision.site}_dense"


def insert_after(graph: fx.Graph, landing: fx.Node, path: str, only: fx.Node | None = None) -> None:
    """Let everything that read `landing`, or `only` one node, read the module at `path` called on it."""
    with graph.inserting_after(landing):
        blur = graph.call_module(path, (landing,))
    blur.meta["path"] = path
    landing.replace_all_uses_with(blur, delete_user_cb=lambda user: user is only if only else user is not blur)
