"""The symbolic tracer: leaf knowledge, and the module in whose `forward` each node arose."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import traceback
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import Node

from blurify.errors import TraceError
from blurify.tracing.calls import Call
from blurify.tracing.inputs import Inputs
from blurify.tracing.leaves import is_foreign_blur, leaf_classes, leaf_functions, strided_leaves
from blurify.tracing.paths import IN_PLACE, assign_paths
from blurify.tracing.wrappers import root_forward, seen_through, wrapped
from blurify.tree import has_hooks


class InPlaceProxy(fx.Proxy):
    """A `torch.fx.Proxy` that records `x += y` as what it is: else another name of `x` would not see it."""


def _in_place(operation: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _operation in IN_PLACE:
    setattr(InPlaceProxy, f"__{_operation.__name__}__", _in_place(_operation))


class LeafAwareTracer(fx.Tracer):
    """`torch.fx.Tracer` that keeps known leaves whole and remembers every node's module."""

    def __init__(self, opened: Container[type[nn.Module]] = ()) -> None:
        super().__init__(autowrap_functions=leaf_functions(), param_shapes_constant=True)
        self.leaves = leaf_classes()
        self.opened = opened
        self.scopes: dict[Node, tuple[str, bool]] = {}
        self.running: list[Call] = []
        self.failed_in = ""
        self.unhooked: set[str] = set()

    def proxy(self, node: Node) -> fx.Proxy:
        """What stands for the node while `forward` runs."""
        return InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the call of `m` stays one node."""
        if type(m) in self.opened or wrapped(m) is not None:
            return False
        return isinstance(m, self.leaves) or is_foreign_blur(m) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Record the arguments; those of a wrapper are those of the module that it holds."""
        function = root_forward(self.root) if wrapped(self.root) is not None else root_fn
        return super().create_args_for_root(function, is_module, concrete_args)

    def create_arg(self, a: Any) -> Any:
        """Record that a mapping of a class of its own is made of its items; a plain graph would return a dict."""
        kind: Any = type(a)
        if issubclass(kind, dict) and kind not in (dict, immutable_dict):
            items: Any = super().create_arg(dict(a))
            if dataclasses.is_dataclass(a):
                return self.create_node("call_function", kind, (), {str(key): value for key, value in items.items()})
            return self.create_node("call_function", kind, (items,), {})
        return super().create_arg(a)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record the module in which a failure arises, the innermost first, and the modules whose hooks are lost."""
        path = self.path_of_module(m)
        if has_hooks(m) and not self.is_leaf_module(m, path):
            # Run now, a hook would see no values and act once; a graph has no place for it.
            self.unhooked.add(path)
            forward = m.forward
        self.running.append(Call.of(path, args, kwargs))
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or path
            raise
        finally:
            call = self.running.pop()
        call.gives = result.node if isinstance(result, fx.Proxy) else None
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        """Record the module in whose `forward` the node arises, and the calls that were running."""
        node = super().create_node(*args, **kwargs)
        node.meta["within"] = tuple(self.running)
        self.scopes[node] = (self.scope.module_path, False)
        return node


@dataclass(frozen=True)
class Recorded:
    """One graph, the values of the tensors that it reads by path, and the containers whose hooks it leaves out."""

    graph: fx.Graph
    values: Mapping[str, Any]
    unhooked: frozenset[str] = frozenset()


def trace_once(model: nn.Module, inputs: Inputs | None = None) -> Recorded:
    """Trace the model as it stands (mode included). Arguments that `inputs` does not give take their defaults."""
    opened = strided_leaves(model)
    while True:
        tracer = LeafAwareTracer(opened)
        try:
            with seen_through(model):
                graph = tracer.trace(model, concrete_args=_defaults(model, inputs))
        except Exception as error:
            culprit = _opened_around(model, tracer.failed_in, opened)
            if culprit is None:
                raise TraceError(describe_failure(model, tracer.failed_in, error)) from error
            # It is whole for a reason, then.
            opened = opened - {culprit}
            continue
        if tracer.unhooked and not graph.output_node().all_input_nodes:
            raise TraceError(
                f"{type(model).__name__} gives what hooks collected, on {min(tracer.unhooked)!r} for one, and a graph "
                "does not run these; let it return the maps themselves (timm's feature_cls='getter', say)"
            )
        assign_paths(graph, tracer.scopes, {name for name, _ in model.named_modules()})
        return Recorded(graph, read_values(graph, model), frozenset(tracer.unhooked))


def read_values(graph: fx.Graph, owner: nn.Module) -> dict[str, Any]:
    """What a graph reads of the module it was recorded from, or calls, by path."""
    paths = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    return {path: operator.attrgetter(path)(owner) for path in paths}


def _opened_around(model: nn.Module, path: str, opened: set[type[nn.Module]]) -> type[nn.Module] | None:
    """The class of the innermost opened leaf in which the module at `path` lies."""
    while path:
        if type(model.get_submodule(path)) in opened:
            return type(model.get_submodule(path))
        path = path.rpartition(".")[0]
    return None


def _defaults(model: nn.Module, inputs: Inputs | None) -> dict[str, Any]:
    # A defaulted argument left symbolic would be traced as given: `if mask is None` would choose the wrong branch.
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name: p.default
        for index, p in enumerate(parameters)
        if p.default is not p.empty
        and p.kind not in kinds
        and not isinstance(p.default, torch.Tensor)
        and (inputs is None or (index >= len(inputs.args) and p.name not in inputs.kwargs))
    }


def describe_failure(model: nn.Module, path: str, error: Exception) -> str:
    """Which module, which line, and why."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not is_ours(f.filename)]
    at = f", at {theirs[-1].filename}:{theirs[-1].lineno} `{theirs[-1].line}`" if theirs else ""
    inside = f" in {path!r}" if path else ""
    return f"{type(model).__name__} cannot be traced{inside}{at}: {first_line(error)}"


# A user's own folder may have these names too, so paths are compared with those of the packages.
TRACERS = (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parents[1])


def is_ours(filename: str) -> bool:
    """Return whether a frame's file belongs to what traces instead of what is traced."""
    path = Path(filename).resolve()
    return any(folder in path.parents for folder in TRACERS)


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
