"""Model to graph: trace both modes, keep every parameter, leave the caller as found.

The front-ends are tried in order: the caller's own `GraphModule`, the symbolic tracer, `torch.export` without and with
its strict mode. What each of them refused is kept, and shown where none succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from textwrap import shorten
from typing import Any

from torch import Tensor, fx, nn

from blurify.errors import TraceError, first_line
from blurify.graph.edit import holder_of
from blurify.graph.module import Modes, TracedModule
from blurify.graph.paths import align_paths, assign_paths, exported_scopes
from blurify.graph.tree import copy_containers
from blurify.tracing.compare import unlike_model
from blurify.tracing.export import export_once, looks_at_values
from blurify.tracing.inputs import Inputs, example_for
from blurify.tracing.leaves import kept_whole
from blurify.tracing.modes import as_found, check_weights_stay, flags_against
from blurify.tracing.tracer import Recorded, read_values, trace_once

__all__ = ["sketch", "trace"]

Front = Callable[[nn.Module], Recorded]


def trace(
    model: nn.Module, inputs: Inputs | None = None, *, symbolic: bool = False, whole: Iterable[str] = ()
) -> TracedModule:
    """Record the graphs of `model` after `.eval()` and after `.train()`, over its own modules and parameters.

    >>> import torchvision
    >>> trace(torchvision.models.resnet18()).meta["front_end"]
    'torch.fx'

    Nothing is copied but the containers: leaf modules and parameters are the caller's. The arguments of `forward` that
    `inputs` does not give take their defaults. `meta["front_end"]` names what recorded the graphs, `meta["refusals"]`
    what the front-ends before it said, `meta["input_shapes"]` the shapes of positional inputs, `meta["unhooked"]`
    the modules whose forward and backward hooks are lost, `meta["omitted"]` what else the graphs leave out, and
    `meta["omitted_in"]` the modules whose `forward` does that. The modules at the paths in `whole` stay whole, and
    those that the symbolic tracer cannot enter and that have no site; `meta["whole"]` names all of them.

    With `symbolic` only the symbolic tracer is asked: a part of a model is none the better for a graph of one example.

    Raises:
        TraceError: no front-end can record `forward`; the message says where and why.
    """
    check_names(model)
    if isinstance(model, TracedModule):
        return model.shallow_copy()
    if isinstance(model, fx.GraphModule):
        recorded = _adopted(model)
        return _assemble(model, recorded, recorded, Modes(), {"front_end": "the model's own graph", "refusals": ()})
    check_weights_stay(model)
    shapes = None if inputs is None else inputs.shapes()
    kept = set(whole)
    fronts: dict[str, Front] = {
        "torch.fx": partial(trace_once, inputs=inputs, whole=kept),
        "torch.export": partial(_export, inputs=inputs, strict=False),
        "torch.export, strict": partial(_export, inputs=inputs, strict=True),
    }
    refusals: list[str] = []
    for name, front in list(fronts.items())[: 1 if symbolic else None]:
        try:
            meta = {"front_end": name, "refusals": tuple(refusals), "input_shapes": shapes}
            traced, unlike = _compared(model, front, meta, kept, inputs)
            if unlike is None:
                return traced
            refusals.append(f"{name} records something else than {type(model).__name__} computes: {unlike}")
        except Exception as error:
            refusals.append(
                str(error) if isinstance(error, TraceError) else f"{name} says: {shorten(first_line(error), 240)}"
            )
            if looks_at_values(error):
                break  # the front-ends after this one meet the same, after minutes
    hint = "" if inputs else " If forward takes something else than one image, pass example_inputs."
    raise TraceError(
        f"{'; '.join(refusals)}. Move that decision out of forward, or convert the part of the model without it "
        f"(its backbone, say).{hint}"
    )


def sketch(model: nn.Module) -> TracedModule:
    """Record the graph after `.eval()` alone, and compare it with nothing: enough to see what could be planned.

    Raises:
        TraceError: the symbolic tracer cannot record `forward`.
    """
    check_names(model)
    if isinstance(model, fx.GraphModule):
        return trace(model)
    with as_found(model):
        recorded = trace_once(model.eval())
    return _assemble(model, recorded, recorded, Modes(), {"front_end": "torch.fx"})


def check_names(model: nn.Module) -> None:
    """Refuse names that would end the string they are quoted in: `torch.fx` writes them into code and runs it."""
    for path, module in model.named_modules():
        for name in (*module._modules.keys(), *module._parameters.keys(), *module._buffers.keys()):
            if not name.isprintable() or set(name) & set("\"'\\"):
                raise TraceError(
                    f"{type(model).__name__} cannot be traced: {f'{path}.' if path else ''}{name!r} is no name for a "
                    "module or parameter, because it holds a quote, a backslash or a control character; rename it."
                )


def _compared(
    model: nn.Module, front: Front, meta: dict[str, Any], whole: set[str], inputs: Inputs | None
) -> tuple[TracedModule, str | None]:
    """Record both modes, and return in what the graph is unlike the model; a module where it is stays whole."""
    while True:
        traced = _both_modes(model, front, meta, whole)
        unlike = unlike_model(model, traced, inputs)
        if unlike is None:
            return traced, None
        more = kept_whole(model, unlike[1]) - whole if meta["front_end"] == "torch.fx" else set()
        if not more:
            return traced, unlike[0]
        whole |= more


def _both_modes(model: nn.Module, front: Front, meta: dict[str, Any], whole: set[str]) -> TracedModule:
    while True:
        before = set(whole)
        # Inference first: what stops a front-end there mostly stops it in training too, and says more.
        with as_found(model):
            model.eval()
            eval_flags = flags_against(model, False)
            evaluated = front(model)
        in_training, train_flags = _in_training(model, front, meta)
        if whole == before:
            break  # both graphs keep the same modules whole
    if in_training is None:
        in_training = evaluated
    elif same_graph(evaluated.graph, in_training.graph):
        # What a draw would decide otherwise the next time is left out all the same.
        in_training = replace(in_training, graph=evaluated.graph, values=evaluated.values)
    else:
        align_paths(in_training.graph, evaluated.graph, {name for name, _ in model.named_modules()})
    return _assemble(model, evaluated, in_training, Modes(train_flags, eval_flags), meta | {"whole": frozenset(whole)})


def _in_training(model: nn.Module, front: Front, meta: dict[str, Any]) -> tuple[Recorded | None, frozenset[str]]:
    """Record the model after `.train()`; None where it can be exported for inference only."""
    with as_found(model):
        model.train()
        flags = flags_against(model, True)
        try:
            return front(model), flags
        except Exception:
            if meta["front_end"] == "torch.fx":
                raise
            # Then `.train()` switches its layers alone.
            meta["eval_only"] = True
            return None, flags


def _export(model: nn.Module, inputs: Inputs | None, strict: bool) -> Recorded:
    return _adopted(export_once(model, example_for(model) if inputs is None else inputs, strict))


def _adopted(model: fx.GraphModule) -> Recorded:
    """Return a copy of the graph of a graph module, with paths."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(model.graph, copies))
    graph.set_codegen(model.graph._codegen)
    scopes = {copies[old]: scope for old, scope in exported_scopes(model.graph).items() if old in copies}
    assign_paths(graph, scopes, {name for name, _ in model.named_modules()})
    return Recorded(graph, read_values(graph, model))


def _assemble(
    model: nn.Module, evaluated: Recorded, in_training: Recorded, modes: Modes, meta: dict[str, Any]
) -> TracedModule:
    recorded = (evaluated, in_training)
    tree = copy_containers(model, {str(n.target) for r in recorded for n in r.graph.nodes if n.op == "call_module"})
    for each in recorded:
        for path, value in each.values.items():
            if not _has(tree, path):
                _bring(tree, path, value)
    traced = TracedModule(tree, evaluated.graph, in_training.graph, modes, type(model).__name__)
    # An exported graph holds what the model's hooks did; what exported it adds checks of the original's inputs.
    traced.forget_hooks(of="" if str(meta["front_end"]).startswith("torch.export") else "torch.export")
    traced.meta.update(meta | {"unhooked": tuple(sorted(evaluated.unhooked | in_training.unhooked))})
    omitted = (*evaluated.omitted, *in_training.omitted)
    traced.meta["omitted"] = tuple(dict.fromkeys(fact for fact, _ in omitted))
    traced.meta["omitted_in"] = tuple(dict.fromkeys(path for _, path in omitted))
    if "pretrained_cfg" in model.__dict__:
        # timm's own word on the size of the input, which a graph does not tell.
        traced.pretrained_cfg = model.pretrained_cfg
    return traced


def _bring(tree: nn.Module, path: str, value: object) -> None:
    """Give the tree what a graph names and the model did not have: lifted constants, guards."""
    holder, name = holder_of(tree, path)
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
    """Return whether two graphs compute the same: equal nodes in equal order."""
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
