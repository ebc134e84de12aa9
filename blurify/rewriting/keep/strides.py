"""Which modules hold the strides of a plan's sites, so that setting them there is all that is to do.

A convolution may be a function that a module of some class calls with its own `stride`, and any `forward` may look at a
stride for something else. Neither is known of a class, so it is tried: the model is recorded once more with its strides
changed, and must compute the same but for the sites' own strides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from torch import fx, nn

from blurify.errors import PlanError, TraceError
from blurify.graph.arguments import Signature, bind, set_argument
from blurify.graph.module import TracedModule
from blurify.graph.paths import node_paths
from blurify.rewriting.rewrite import Edit
from blurify.rules.conv import signature_of
from blurify.sites import per_axis
from blurify.tracing import same_graph
from blurify.tracing.calls import calls_by_path, running
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import as_found
from blurify.tracing.tracer import trace_once

# What `torch.fx` calls tensors that no module holds, with a number.
MADE = "_tensor_constant"


def holder(edit: Edit, model: nn.Module) -> str | None:
    """Return the path of the module that holds the site's stride, as far as can be told without trying."""
    if edit.decision.kind.traits.grows:  # it is blurred as it is
        return None
    if edit.node.op == "call_module":
        # Of a pair that is read for its maxima alone, the dense pool gives these alone.
        other = getattr(edit.module, "return_indices", False) and not edit.site.pair
        return None if other else str(edit.node.target)
    calls = running(edit.node)
    if not edit.decision.kind.traits.learnt or not calls:
        return None
    stride = getattr(model.get_submodule(calls[-1].path), "stride", None)
    known = isinstance(stride, (int, tuple, list)) and per_axis(stride, edit.site.axes) == edit.site.stride
    return calls[-1].path if known else None


def proved(
    edits: Iterable[Edit], holders: Mapping[str, str], model: nn.Module, traced: TracedModule, inputs: Inputs | None
) -> set[str]:
    """Return the sites whose stride is the one that their holder has.

    Raises:
        PlanError: the model computes something else as well when its strides change.
    """
    convs = {e.decision.site: e for e in edits if e.decision.kind.traits.learnt and e.decision.site in holders}
    again = fx.Graph()
    with as_found(model), suppress(TraceError):
        model.eval()
        for site, edit in convs.items():
            set_stride(model.get_submodule(holders[site]), edit.site.dense_stride)
        again = trace_once(model, inputs, set(traced.meta.get("whole", ()))).graph
    paths = node_paths(again)
    refuted = set()
    for site, edit in convs.items():
        signature = signature_of(edit.node)
        if signature is not None and not _restored(paths.get(site), edit, signature):
            refuted.add(site)
    _name_constants_alike(again, traced.eval_graph)
    if not same_graph(again, traced.eval_graph):
        raise PlanError(
            f"{type(model).__name__} cannot keep its class, since its forward looks at the strides of its convolutions "
            "for other things too; convert it with form='graph' (--form graph)."
        )
    return set(holders) - refuted


def set_stride(module: Any, stride: tuple[int, ...]) -> None:
    """Give a module another stride, written as it writes its own."""
    module.stride = stride[0] if isinstance(module.stride, int) and len(set(stride)) == 1 else stride


def _restored(node: fx.Node | None, edit: Edit, signature: Signature) -> bool:
    """Give a function's call its stride again, if it has the one that its holder was given."""
    if node is None or per_axis(bind(node, signature).get("stride", 1), edit.site.axes) != edit.site.dense_stride:
        return False
    set_argument(node, signature, "stride", bind(edit.node, signature)["stride"])
    return True


def _name_constants_alike(graph: fx.Graph, reference: fx.Graph) -> None:
    """Give tensors that were made while recording the numbers that they have in the other graph."""
    for node, other in zip(graph.nodes, reference.nodes, strict=False):
        if str(node.target).startswith(MADE) and str(other.target).startswith(MADE):
            node.target = other.target


def whole(
    sites: set[str],
    edits: Iterable[Edit],
    holders: Mapping[str, str],
    dense: Mapping[str, object],
    graphs: Iterable[fx.Graph],
) -> set[str]:
    """Return those of the sites whose holder has no call besides the sites, nor two dense forms."""
    own: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.decision.site in sites and edit.decision.site in holders:
            own.setdefault(holders[edit.decision.site], []).append(edit)
    split = {path for path, each in own.items() if len({dense[edit.decision.site] for edit in each}) > 1}
    for calls in map(calls_by_path, graphs):
        for path, each in own.items():
            if not all(any(call in running(edit.node) for edit in each) for call in calls.get(path, ())):
                split.add(path)
    return {site for site in sites if holders.get(site) not in split}
