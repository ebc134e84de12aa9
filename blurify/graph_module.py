"""The traced model: one tree of modules and parameters, one graph for `.eval()` and one for `.train()`.

A stable, public path: pickled converted models name `rebuild`.

A plain `GraphModule` keeps only what its graph names, in the graph's order, and pickles itself by being traced again.
This one keeps every parameter and buffer of the original under its name and in its order, switches graphs with the
mode, and pickles its nodes as they are.
"""

from __future__ import annotations

import copy
import importlib
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node, map_arg

# What a tree node is, apart from its class. `_version` goes into a state_dict's metadata: some models rebuild
# themselves when they load one of an older version.
REGISTRIES = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "_version")
# What the root has beside: hooks that calling the model runs.
HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
)


# Of a node: its path, and of one that the rewrite made the path of the site that it blurs.
KEPT_META = ("path", "blurs")


@dataclass(frozen=True)
class NodeRef:
    """Stands for a node in a pickled argument."""

    name: str


@dataclass(frozen=True)
class FunctionRef:
    """Stands for a function that is found by importing it."""

    module: str
    name: str

    def resolve(self) -> Any:
        """Import the function."""
        target: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            target = getattr(target, part)
        return target


@dataclass(frozen=True)
class Modes:
    """Paths of the modules whose `training` flag differs from the model's, after `.train()` and after `.eval()`."""

    train: frozenset[str] = frozenset()
    eval: frozenset[str] = frozenset()

    def exceptions(self, training: bool) -> frozenset[str]:
        """The paths that differ in the given mode."""
        return self.train if training else self.eval


class TracedModule(fx.GraphModule):
    """A model as a graph: a `torch.fx.GraphModule` that follows `.train()` and `.eval()` as the original did.

    Args:
        tree: root of the module tree, whose children, parameters and buffers become this module's own.
        eval_graph: what the model computes after `.eval()`.
        train_graph: what it computes after `.train()`; the same object where both are equal.
        modes: module flags that `.train()` and `.eval()` of the original set otherwise than `nn.Module` does.
    """

    if TYPE_CHECKING:
        _by_mode: dict[bool, fx.Graph]
        _modes: Modes

    def __init__(self, tree: nn.Module, eval_graph: fx.Graph, train_graph: fx.Graph, modes: Modes, name: str) -> None:
        super().__init__(tree, train_graph if tree.training else eval_graph, class_name=name)
        self._adopt(tree)
        self.__dict__["_by_mode"] = {True: train_graph, False: eval_graph}
        self.__dict__["_modes"] = modes

    @property
    def graphs(self) -> tuple[fx.Graph, ...]:
        """The distinct graphs, that of `.eval()` first."""
        train, evaluate = self._by_mode[True], self._by_mode[False]
        return (evaluate,) if train is evaluate else (evaluate, train)

    @property
    def eval_graph(self) -> fx.Graph:
        """What the model computes after `.eval()`."""
        return self._by_mode[False]

    def train(self, mode: bool = True) -> TracedModule:
        """Switch to the given mode as the original did."""
        super().train(mode)
        for path in self._modes.exceptions(mode):
            self.get_submodule(path).training = not mode
        self.follow_mode()
        return self

    def follow_mode(self) -> None:
        """Make the graph of the present mode the active one, after the flag was set by hand."""
        if self._by_mode[self.training] is not self._graph:
            self.graph = self._by_mode[self.training]

    def recompile_all(self) -> None:
        """Check every graph and regenerate the code of the active one, after an edit."""
        for graph in self.graphs:
            graph.owning_module = self
            graph.lint()
        self.recompile()

    def detached_tree(self) -> nn.Module:
        """A bare root with this module's children, parameters, buffers, hooks and mode."""
        return bare_copy(self, HOOKS)

    def forget_hooks(self, of: str) -> None:
        """Take from the root the hooks that a module of the given name, or one below it, has defined."""
        for registry in HOOKS:
            hooks = getattr(self, registry)
            if isinstance(hooks, dict):
                kept = [(key, hook) for key, hook in hooks.items() if not _home(hook).startswith(of)]
                self.__dict__[registry] = OrderedDict(kept)

    def attributes(self) -> dict[str, Any]:
        """What was put on this module beside children, parameters and buffers."""
        internal = ("training", "meta", "extra_state")
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k not in internal}

    def _adopt(self, tree: nn.Module) -> None:
        for registry in REGISTRIES + HOOKS:
            self.__dict__[registry] = getattr(tree, registry)
        if isinstance(tree, KeepsExtraState):
            self.__dict__["extra_state"] = tree.extra_state
            # `torch.fx` makes a class for every instance, and a state_dict asks the class.
            kind: Any = type(self)
            kind.get_extra_state, kind.set_extra_state = tree.__class__.get_extra_state, tree.__class__.set_extra_state

    def own_tree(self) -> None:
        """Replace every module, parameter and buffer by a copy of this module's own, ties kept."""
        tree = self.detached_tree()
        self._adopt(copy.deepcopy(tree, dict(computed_copies(tree))))

    def shallow_copy(self) -> TracedModule:
        """A traced module with graphs and tree of its own that shares every leaf module and parameter with this one."""
        state = self._state()
        state["tree"] = copy_containers(state["tree"], self.leaf_paths())
        return rebuild(state)

    def leaf_paths(self) -> set[str]:
        """The paths of the modules that the graphs call."""
        return {str(node.target) for graph in self.graphs for node in graph.nodes if node.op == "call_module"}

    def _state(self) -> dict[str, Any]:
        graphs = [encode_graph(graph) for graph in self.graphs]
        return {
            "tree": self.detached_tree(),
            "graphs": graphs,
            "modes": self._modes,
            "name": type(self).__name__,
            "meta": dict(self.meta),
            "attributes": self.attributes(),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self._state(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModule:
        twin = rebuild(copy.deepcopy(self._state(), memo))
        memo[id(self)] = twin
        return twin


def _home(function: object) -> str:
    return str(getattr(function, "__module__", ""))


class KeepsExtraState(nn.Module):
    """A container whose original had a `get_extra_state` of its own: what that gave stays in the state_dict."""

    extra_state: Any

    def get_extra_state(self) -> Any:
        """What the original's gave when it was traced, or what was loaded since."""
        return self.extra_state

    def set_extra_state(self, state: Any) -> None:
        """Keep what a state_dict holds."""
        self.extra_state = state


def bare_copy(module: nn.Module, beside: tuple[str, ...] = ()) -> nn.Module:
    """A plain module with the children, parameters, buffers and mode of `module`, in registries of its own."""
    bare = nn.Module()
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        bare = KeepsExtraState()
        bare.extra_state = module.get_extra_state()
    for registry in REGISTRIES + beside:
        bare.__dict__[registry] = copy.copy(getattr(module, registry))
    bare.training = module.training
    return bare


def computed_copies(tree: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Copies, by identity, of the tensors that hooks compute (old weight norms, pruning), which deepcopy refuses."""
    for module in tree.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield id(value), value.detach().clone()


def is_plain_layer(module: nn.Module) -> bool:
    """Whether the module is a layer of `torch.nn` without children: what a tracer never looks into."""
    return type(module).__module__.startswith("torch.nn.") and not module._modules and type(module) is not nn.Module


def copy_containers(module: nn.Module, leaves: set[str], prefix: str = "") -> nn.Module:
    """Copy the tree of containers, sharing the modules at the `leaves` paths, all parameters and all buffers.

    Layers of `torch.nn` that no graph calls (a head of another mode, all layers of an exported graph) are shared too.
    """
    if prefix.rstrip(".") in leaves or (prefix and is_plain_layer(module)):
        return module
    bare = bare_copy(module, () if prefix else HOOKS)
    for name, child in module._modules.items():
        bare._modules[name] = None if child is None else copy_containers(child, leaves, f"{prefix}{name}.")
    return bare


def rebuild(state: dict[str, Any]) -> TracedModule:
    """Make the traced module anew from what `pickle` kept of it."""
    graphs = [decode_graph(encoded) for encoded in state["graphs"]]
    traced = TracedModule(state["tree"], graphs[0], graphs[-1], state["modes"], state["name"])
    traced.meta.update(state["meta"])
    traced.__dict__.update(state["attributes"])
    return traced


def encode_graph(graph: fx.Graph) -> dict[str, Any]:
    """Turn a graph into plain picklable values, its nodes in order."""
    nodes = [
        (
            node.op,
            node.name,
            _encode_target(node),
            _encode_args(node.args),
            _encode_args(node.kwargs),
            node.type,
            {key: node.meta[key] for key in KEPT_META if key in node.meta},
        )
        for node in graph.nodes
    ]
    plain = type(graph._codegen) is fx.graph.CodeGen
    return {"nodes": nodes, "codegen": None if plain else graph._codegen}


def decode_graph(encoded: dict[str, Any]) -> fx.Graph:
    """Make the graph anew from what `encode_graph` returned."""
    graph = fx.Graph()
    if encoded["codegen"] is not None:
        graph.set_codegen(encoded["codegen"])
    by_name: dict[str, Node] = {}
    for op, name, target, args, kwargs, kind, meta in encoded["nodes"]:
        target = target.resolve() if isinstance(target, FunctionRef) else target
        node = graph.create_node(op, target, _decode(args, by_name), _decode(kwargs, by_name), name, kind)
        node.meta.update(meta)
        by_name[name] = node
    return graph


def _encode_target(node: Node) -> Any:
    target = node.target
    if isinstance(target, str):
        return target
    for module, name in _spellings(target):
        reference = FunctionRef(module, name)
        try:
            if reference.resolve() is target:
                return reference
        except (ImportError, AttributeError):
            continue
    raise pickle.PicklingError(
        f"the function {target!r} at node {node.name!r} cannot be found by importing it, so a model that calls it "
        "cannot be pickled; define it at the top level of a module."
    )


def _spellings(target: Any) -> list[tuple[str, str]]:
    module = getattr(target, "__module__", None)
    names = [getattr(target, "__qualname__", None), getattr(target, "__name__", None)]
    homes = [module, "torch", "torch.nn.functional", "operator", "torch._C._nn", "math", "builtins"]
    found = [(home, name) for name in names if name for home in homes if home]
    qualified = str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        found.insert(0, ("torch", f"ops.higher_order.{target.name()}"))  # type: ignore[no-untyped-call]
    elif type(target).__module__ == "torch._ops":
        found.insert(0, ("torch", f"ops.{qualified}"))
    return found


def _encode_args(args: Any) -> Any:
    to_reference: Any = lambda node: NodeRef(node.name)  # noqa: E731
    return map_arg(args, to_reference)


def _decode(args: Any, by_name: dict[str, Node]) -> Any:
    if isinstance(args, NodeRef):
        return by_name[args.name]
    if isinstance(args, slice):
        return slice(*(_decode(part, by_name) for part in (args.start, args.stop, args.step)))
    if isinstance(args, tuple) and hasattr(args, "_fields"):
        return type(args)(*(_decode(part, by_name) for part in args))
    if isinstance(args, (tuple, list)):
        kind = tuple if isinstance(args, tuple) else list
        return kind(_decode(part, by_name) for part in args)
    if isinstance(args, dict):
        return {key: _decode(value, by_name) for key, value in args.items()}
    return args
