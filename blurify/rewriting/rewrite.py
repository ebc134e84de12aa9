"""Do what the decisions say: the dense op in the site's place, the blur at the landing. Nothing is decided here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count

from torch import Tensor, fx, nn

from blurify.errors import PlanError
from blurify.graph.constants import constant_tensor
from blurify.graph.edit import callers, insert_after, set_module
from blurify.graph.module import TracedModule
from blurify.graph.paths import node_paths
from blurify.layers import Blur
from blurify.planning.decision import Decision
from blurify.planning.placement import check_fits
from blurify.rules import Context, Downsampler, Replacement, Rule, recognise
from blurify.sites import Site


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

    The node that blurs says in `meta["blurs"]` for which sites it does.

    Raises:
        PlanError: a site or landing is not in the model, or must not be rewritten so.
    """
    edits = locate(traced, tuple(decisions))
    calls = callers(traced)
    edited = {edit.node for edit in edits}
    # A module that a kept call still needs keeps its stride, so this call gets a dense op elsewhere.
    free = [calls.get(str(edit.node.target), set()) <= edited for edit in edits]
    for edit, alone in zip(edits, free, strict=True):
        check_can_split(edit, alone)
    names = Names(traced)
    with traced.edited():
        for edit, alone in zip(edits, free, strict=True):
            apply_edit(traced, edit, alone, names)


def check_can_split(edit: Edit, free: bool) -> None:
    """Refuse two strides for a module that can have one."""
    if free or edit.module is None or edit.rule.can_be_function(edit.module):
        return
    if next(edit.module.parameters(), None) is not None:
        raise PlanError(
            f"The plan rewrites {edit.decision.site!r} and keeps another call of its {type(edit.module).__name__}, "
            "which cannot have two strides; plan both alike."
        )


class Names:
    """Chooses paths for new modules that nothing of the model's own has, the same ones in both graphs."""

    def __init__(self, traced: TracedModule) -> None:
        self.traced = traced
        self.given: dict[str, str] = {}
        self.called = traced.leaf_paths()

    def new(self, wanted: str) -> str:
        """Return the wanted path, or the first free one of `wanted_1`, `wanted_2`, ..."""
        if wanted not in self.given:
            free = (path for path in chain([wanted], (f"{wanted}_{n}" for n in count(1))) if self._is_free(path))
            self.given[wanted] = next(free)
        return self.given[wanted]

    def _is_free(self, path: str) -> bool:
        parent, _, name = path.rpartition(".")
        owner: nn.Module = self.traced
        for part in parent.split(".") if parent else ():
            if part not in owner._modules:
                return not hasattr(owner, part)
            owner = owner.get_submodule(part)
        existing = owner._modules.get(name)
        if existing is None:
            return not hasattr(owner, name)
        # In an exported graph the layers are there and never called.
        called = any(other == path or other.startswith(f"{path}.") for other in self.called)
        return not called and next(chain(existing.parameters(), existing.buffers()), None) is None


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
                f"The plan rewrites {decision.site!r}, which is not a node of this {type(traced).__name__}."
            )
    return edits


def _locate(traced: TracedModule, graph: fx.Graph, paths: dict[str, fx.Node], decision: Decision) -> Edit:
    node = paths[decision.site]
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    rule, site = recognise(node, module, Context(traced)) or (None, None)
    if rule is not None and site is not None:
        site = rule.as_decided(site, as_site(decision))
    if rule is None or site is None or site.kind is not decision.kind:
        raise PlanError(
            f"The plan rewrites {decision.site!r} as a strided {decision.kind}, which it is not in this model."
        )
    training = decision.train_landing and graph is not traced.eval_graph
    landing = decision.train_landing if training else decision.landing
    if landing not in paths:
        raise PlanError(f"The plan blurs {decision.site!r} after {landing!r}, which is not a node of this model.")
    check_fits(decision, node, site, paths[landing], traced)
    return Edit(decision, rule, site, node, paths[landing], module)


def as_site(decision: Decision) -> Site:
    """Return the site as far as a decision describes it."""
    return Site(decision.kind, decision.kernel_size, decision.stride, (), (), source=decision.detail)


def apply_edit(traced: TracedModule, edit: Edit, free: bool, names: Names) -> None:
    """Rewrite one site in one graph."""
    decision, node = edit.decision, edit.node
    parts = replacement(traced, edit)
    if parts.dense is not None and (free or not parts.has_parameters):
        call_instead(traced, node, parts, dense_path(decision, node, free, names))
    elif parts.dense is not None and edit.module is not None and edit.rule.as_function is not None:
        edit.rule.as_function(node, edit.module, edit.site)
    if parts.blur is None:
        node.meta["blurs"] = (decision.site,)
        return
    path = names.new(f"{decision.site}_blur")
    set_module(traced, path, parts.blur)
    # What the node reads may be the blur of another site by now.
    landing = node.all_input_nodes[0] if parts.before else edit.landing
    blur = insert_after(landing, path, only=node if parts.before else None)
    blur.meta["blurs"] = (decision.site,)
    if "gives" in node.meta:
        blur.meta["gives"] = node.meta.pop("gives")


def call_instead(traced: TracedModule, node: fx.Node, parts: Replacement, path: str) -> None:
    """Let the node call the dense module, put at `path`."""
    if parts.dense is not None:
        set_module(traced, path, parts.dense)
    if node.op != "call_module" and not parts.all_arguments:
        source = node.args[0] if node.args else node.kwargs["input"]
        node.args, node.kwargs = (source,), {}
    node.op, node.target = "call_module", path


def replacement(traced: TracedModule, edit: Edit) -> Replacement:
    """Return what takes a site's place; making it may edit the graph around the site."""
    decision = edit.decision
    down = Downsampler(decision.blurring, decision.side, decision.plain_resize)
    parts = edit.rule.replace(edit.node, edit.module, edit.site, down)
    move_to_device(parts, edit.node, traced)
    return parts


def move_to_device(parts: Replacement, node: fx.Node, traced: TracedModule) -> None:
    """Put the new layers, whose only tensors are filters, on the device of the weights nearest before the site."""
    known = nearest_tensor(node, traced)
    for layer in (parts.dense, parts.blur):
        if isinstance(layer, Blur) and known is not None:
            layer.to(known.device)


def nearest_tensor(node: fx.Node, traced: TracedModule) -> Tensor | None:
    """Return a parameter or buffer of the node, or of the nearest before it that has any."""
    seen, waiting = {node}, deque([node])
    while waiting:
        current = waiting.popleft()
        tensor = next(filter(is_placed, tensors_at(current, traced)), None)
        if tensor is not None:
            return tensor
        new = [source for source in current.all_input_nodes if source not in seen]
        seen.update(new)
        waiting.extend(new)
    return next(chain(traced.parameters(), traced.buffers()), None)


def tensors_at(node: fx.Node, traced: TracedModule) -> Iterator[Tensor]:
    """Yield the parameters and buffers that a node holds or is."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        yield from chain(module.parameters(), module.buffers())
    value = constant_tensor(node, traced)
    if value is not None:
        yield value


def is_placed(tensor: Tensor) -> bool:
    """Return whether the tensor's device tells where others are: a single number may be anywhere."""
    return tensor.dim() > 0


def dense_path(decision: Decision, node: fx.Node, free: bool, names: Names) -> str:
    """Return the path of the dense module: the original's, or one next to it."""
    if node.op != "call_module":
        return names.new(decision.site)
    return str(node.target) if free else names.new(f"{decision.site}_dense")
