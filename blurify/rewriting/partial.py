"""Find the largest parts of a model that can be traced, where the whole cannot: detectors, control flow by values.

Top-down: a submodule that the symbolic tracer records is planned by itself, on what it is fed in one run of the whole
model; of one that it does not record, the children are tried. A part is carried out by `blurify.rewriting.parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _LPPoolNd

from blurify.errors import BlurifyError
from blurify.graph.module import TracedModule
from blurify.graph.paths import node_paths
from blurify.graph.tree import is_plain_layer
from blurify.planning.decision import Decision, Part, of_whole
from blurify.planning.plan import Plan
from blurify.planning.spec import Spec
from blurify.rewriting.parts import as_root
from blurify.sites import Action, Kind, Lands, Reason
from blurify.tracing import sketch, trace
from blurify.tracing.fed import Fed
from blurify.tracing.inputs import Inputs
from blurify.tracing.leaves import is_strided

# These reduce resolution by a window or to a size.
WITHOUT_STRIDE = (_LPPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
Planned = Callable[[nn.Module, TracedModule, Spec, Inputs | None], Plan]


class Parts:
    """Return the result for each part of a model; `fed` holds the inputs of its submodules, where they are known."""

    def __init__(self, model: nn.Module, spec: Spec, planned: Planned, fed: Fed | None) -> None:
        self.model = model
        self.spec = spec
        self.planned = planned
        self.fed = fed
        self.decisions: list[Decision] = []
        self.parts: list[Part] = []
        self.only_one = False
        self.stem = fed.first(_ConvNd, model) if fed else ""

    def plan(self) -> Plan:
        """Return the plan of all parts, in the order of their calls."""
        self._below("", self.model)
        calls = list(self.fed.calls) if self.fed else []
        order = {path: index for index, path in enumerate(calls)}
        self.parts.sort(key=lambda part: order.get(part.path, len(order)))
        self.spec.check_patterns_match([decision.site for decision in self.decisions])
        return Plan(tuple(self.decisions), tuple(self.parts))

    def first(self) -> str:
        """Return the path of one part that would be converted; empty if none would."""
        self.only_one = True
        self._below("", self.model)
        return next((part.path for part in self.parts if not part.reason), "")

    def _below(self, path: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            where = f"{path}.{name}".lstrip(".")
            if self.only_one and any(not part.reason for part in self.parts):
                return
            known = self.fed is None or where in self.fed.calls
            if any(part.path == where for part in self.parts) or not is_worth_a_trace(child):
                continue
            why = self._convert(where, child) if known else ""
            if why or not known:
                self._leave(where, child, why)

    def _leave(self, path: str, module: nn.Module, why: str) -> None:
        """Try what is in a module that cannot be traced, and list the module where nothing in it is converted."""
        before = len(self.parts)
        self._below(path, module)
        if why and all(part.reason for part in self.parts[before:]):
            del self.parts[before:]
            self.parts.append(Part(path, type(module).__name__, why))
            self.decisions += unseen(path, module)

    def _convert(self, path: str, module: nn.Module) -> str:
        """Plan a part, if it can be traced; return why it cannot."""
        root, name = as_root(module)
        inputs = self.fed.calls[path] if self.fed else None
        rename = partial(whole_name, path=path, root=name)
        spec = self.spec.of_part(rename, inner=not f"{self.stem}.".startswith(f"{path}."))
        try:
            # To name one part, it is enough to see it once.
            traced = sketch(root) if self.only_one else trace(root, inputs, symbolic=True)
            plan = self.planned(root, traced, spec, inputs)
        except BlurifyError as error:
            return in_short(error)
        decisions = [end_kept(decision, traced) for decision in plan.decisions]
        self.decisions += [of_whole(decision, path, name) for decision in decisions]
        if any(decision.action is Action.REWRITE for decision in decisions):
            self.parts.append(Part(path, type(module).__name__))
        return ""


def is_worth_a_trace(module: nn.Module) -> bool:
    """Say whether there may be a site in the module: a layer alone shows by its stride, all else is looked into."""
    return not is_plain_layer(module) or is_strided(module) or isinstance(module, WITHOUT_STRIDE)


def in_short(error: Exception) -> str:
    """Return the place and the first sentence of what the tracer says, without its advice."""
    place, quote, fact = str(error).partition(". Move that decision")[0].rpartition("`: ")
    return f"{place}{quote}{fact.partition('. ')[0].rstrip('.')}"


def whole_name(name: str, path: str, root: str) -> str:
    """Return the name that the whole model has for a node of its part at `path`."""
    return of_whole(Decision(name, Kind.OPAQUE, Action.KEEP), path, root).site


def end_kept(decision: Decision, traced: TracedModule) -> Decision:
    """Return the decision; one to keep for a conv that is all that its part returns: its activation is elsewhere."""
    further = decision.action is Action.REWRITE and decision.kind.traits.lands is Lands.FURTHER
    if not further or decision.landing != decision.site:
        return decision
    node = node_paths(traced.eval_graph).get(decision.site)
    ends = isinstance(node, fx.Node) and traced.eval_graph.output_node().args[0] is node
    return decision.kept(Reason.PART_END) if ends else decision


def unseen(path: str, module: nn.Module) -> Iterator[Decision]:
    """Yield the strided layers of a module that was left as it is."""
    for name, layer in module.named_modules():
        if is_plain_layer(layer) and is_strided(layer):
            stride = getattr(layer, "stride", ())
            strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,)
            decision = Decision(f"{path}.{name}".rstrip("."), Kind.OPAQUE, Action.KEEP, Reason.OPAQUE, stride=strides)
            yield replace(decision, detail=f"{type(module).__name__} cannot be traced")
