"""Model to graph: trace both modes, keep every parameter, leave the caller as found.

The front-ends are tried in order: the caller's own `GraphModule`, the symbolic tracer, `torch.export` without and with
its strict mode. What each of them refused is kept, and shown where none succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, fx, nn

from blurify.errors import TraceError
from blurify.graph_module import Modes, TracedModule, copy_containers
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs, example_for
from blurify.tracing.modes import as_found, flags_against
from blurify.tracing.paths import assign_paths, exported_scopes
from blurify.tracing.tracer import first_line, trace_once

__all__ = ["trace"]

Front = Callable[[nn.Module], tuple[fx.Graph, nn.Module]]


def trace(model: nn.Module, inputs: Inputs | None = None) -> TracedModule:
    """Record the graphs of `model` after `.eval()` and after `.train()`, over its own modules and parameters.

    >>> import torchvision
    >>> trace(torchvision.models.resnet18()).meta["front_end"]
    'torch.fx'

    Nothing is copied but the containers: leaf modules and parameters are the caller's. The arguments of `forward` that
    `inputs` does not give take their defaults. `meta["front_end"]` names what recorded the graphs and
    `meta["refusals"]` what the front-ends before it said.

    Raises:
        TraceError: no front-end can record `forward`; the message says where and why.
    """
    check_names(model)
    if isinstance(model, TracedModule):
        return model.shallow_copy()
    if isinstance(model, fx.GraphModule):
        return _assemble(model, *_adopted(model), Modes(), {"front_end": "the model's own graph", "refusals": ()})
    fronts: dict[str, Front] = {
        "torch.fx": lambda m: (trace_once(m, inputs), m),
        "torch.export": partial(_export, inputs=inputs, strict=False),
        "torch.export, strict": partial(_export, inputs=inputs, strict=True),
    }
    refusals: list[str] = []
    for name, front in fronts.items():
        try:
            return _both_modes(model, front, {"front_end": name, "refusals": tuple(refusals)})
        except Exception as error:
            refusals.append(str(error) if isinstance(error, TraceError) else f"{name} says: {first_line(error)}")
    raise TraceError(
        f"{'; '.join(refusals)}. Move that decision out of forward, or convert the part of the model without it "
        "(its backbone, say)."
    )


def check_names(model: nn.Module) -> None:
    """Refuse names that would end the string they are quoted in: `torch.fx` writes them into code and runs it."""
    for path, module in model.named_modules():
        for name in (*module._modules, *module._parameters, *module._buffers):
            if not name.isprintable() or set(name) & set("\"'\\"):
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {f'{path}.' if path else ''}{name!r} is no name for a "
                    "module or parameter, because it holds a quote, a backslash or a control character; rename it."
                )


def _both_modes(model: nn.Module, front: Front, meta: dict[str, object]) -> TracedModule:
    with as_found(model):
        model.train()
        train_flags = flags_against(model, True)
        try:
            train_graph, train_source = front(model)
        except Exception:
            if meta["front_end"] == "torch.fx":
                raise
            # Some models can be exported for inference only; then `.train()` switches their layers alone.
            train_graph, train_source = None, None
            meta["eval_only"] = True
        model.eval()
        eval_flags = flags_against(model, False)
        eval_graph, eval_source = front(model)
    if train_graph is None or train_source is None or same_graph(eval_graph, train_graph):
        train_graph, train_source = eval_graph, eval_source
    return _assemble(model, eval_graph, eval_source, Modes(train_flags, eval_flags), meta, train_graph, train_source)


def _export(model: nn.Module, inputs: Inputs | None, strict: bool) -> tuple[fx.Graph, nn.Module]:
    return _adopted(export_once(model, example_for(model) if inputs is None else inputs, strict))


def _adopted(model: fx.GraphModule) -> tuple[fx.Graph, nn.Module]:
    """A copy of the graph of a graph module, with paths, and the module that holds what it names."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(model.graph, copies))
    graph.set_codegen(model.graph._codegen)
    scopes = {copies[old]: scope for old, scope in exported_scopes(model.graph).items() if old in copies}
    assign_paths(graph, scopes, {name for name, _ in model.named_modules()})
    return graph, model


def _assemble(
    model: nn.Module,
    eval_graph: fx.Graph,
    eval_source: nn.Module,
    modes: Modes,
    meta: dict[str, object],
    train_graph: fx.Graph | None = None,
    train_source: nn.Module | None = None,
) -> TracedModule:
    graphs = [(eval_graph, eval_source)]
    if train_graph is not None and train_source is not None and train_graph is not eval_graph:
        graphs.append((train_graph, train_source))
    called = {str(n.target) for graph, _ in graphs for n in graph.nodes if n.op == "call_module"}
    tree = copy_containers(model, called)
    for graph, source in graphs:
        _bring(graph, source, tree)
    traced = TracedModule(tree, eval_graph, graphs[-1][0], modes, type(model).__name__)
    traced.meta.update(meta)
    return traced


def _bring(graph: fx.Graph, source: nn.Module, tree: nn.Module) -> None:
    """Give the tree what an exported graph names and the model does not have: lifted constants, guards."""
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module") and not _has(tree, str(node.target)):
            *parents, name = str(node.target).split(".")
            owner, holder = source, tree
            for parent in parents:
                owner = getattr(owner, parent)
                if parent not in holder._modules:
                    holder.add_module(parent, nn.Module())
                holder = holder.get_submodule(parent)
            _attach(holder, name, getattr(owner, name))


def _attach(holder: nn.Module, name: str, value: object) -> None:
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        holder.register_buffer(name, value, persistent=False)
    else:
        setattr(holder, name, value)


def _has(tree: nn.Module, path: str) -> bool:
    found: object = tree
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


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
