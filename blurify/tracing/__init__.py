"""Model to graph: trace both modes, keep every parameter, leave the caller as found."""

from __future__ import annotations

from torch import fx, nn

from blurify.graph_module import Modes, TracedModule, copy_containers
from blurify.tracing.modes import as_found, flags_against
from blurify.tracing.paths import assign_paths
from blurify.tracing.tracer import trace_once

__all__ = ["trace"]


def trace(model: nn.Module, positional: int | None = None) -> TracedModule:
    """Record the graphs of `model` after `.eval()` and after `.train()`, over its own modules and parameters.

    >>> import torchvision
    >>> traced = trace(torchvision.models.resnet18())

    Nothing is copied but the containers: leaf modules and parameters are the caller's. `positional` is how many leading
    arguments of `forward` are inputs; the others take their defaults, and `None` means those without a default.

    Raises:
        TraceError: `forward` cannot be recorded; the message says where and why.
    """
    if isinstance(model, TracedModule):
        return model.shallow_copy()
    if isinstance(model, fx.GraphModule):
        return _from_graph_module(model)
    with as_found(model):
        model.train()
        train_graph, train_flags = trace_once(model, positional), flags_against(model, True)
        model.eval()
        eval_graph, eval_flags = trace_once(model, positional), flags_against(model, False)
    if same_graph(eval_graph, train_graph):
        train_graph = eval_graph
    return _assemble(model, eval_graph, train_graph, Modes(train_flags, eval_flags))


def _from_graph_module(model: fx.GraphModule) -> TracedModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(model.graph, copies))
    graph.set_codegen(model.graph._codegen)
    scopes = {copies[old]: _scope(old) for old in model.graph.nodes if old in copies}
    assign_paths(graph, scopes, {name for name, _ in model.named_modules()})
    return _assemble(model, graph, graph, Modes())


def _scope(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    last = next(reversed(stack.values()), ("",)) if stack else ("",)
    return last[0] if isinstance(last, tuple) and isinstance(last[0], str) else ""


def _assemble(model: nn.Module, eval_graph: fx.Graph, train_graph: fx.Graph, modes: Modes) -> TracedModule:
    called = {str(n.target) for g in (eval_graph, train_graph) for n in g.nodes if n.op == "call_module"}
    # A leaf that no graph calls (a head of another mode, say) is kept as it is.
    idle = {name for name, module in model.named_modules() if name and not list(module.children())}
    tree = copy_containers(model, called | idle)
    return TracedModule(tree, eval_graph, train_graph, modes, type(model).__name__)


def same_graph(one: fx.Graph, other: fx.Graph) -> bool:
    """Whether two graphs compute the same: equal nodes in equal order."""
    if len(one.nodes) != len(other.nodes):
        return False
    twin: dict[fx.Node, fx.Node] = {}
    for a, b in zip(one.nodes, other.nodes, strict=True):
        if a.op != b.op or a.target != b.target:
            return False
        args = fx.node.map_arg((a.args, a.kwargs), lambda node: twin[node])
        if args != (b.args, b.kwargs):
            return False
        twin[a] = b
    return True
