"""The traced model: one tree of modules and parameters, one graph for `.eval()` and one for `.train()`.

A stable, public path: pickled converted models name `rebuild`.

A plain `GraphModule` keeps only what its graph names, in the graph's order, and pickles itself by being traced again.
This one keeps every parameter and buffer of the original under its name and in its order, switches graphs with the
mode, and pickles its nodes as they are.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.fx.graph import PythonCode

from blurify.graph.codec import decode_graph, encode_graph
from blurify.graph.lowering import lower, quoted_keywords
from blurify.graph.tree import (
    HOOKS,
    REGISTRIES,
    KeepsExtraState,
    bare_copy,
    computed_copies,
    copy_containers,
    home,
    own_copy,
)


@dataclass(frozen=True)
class Modes:
    """Paths of the modules whose `training` flag differs from the model's, after `.train()` and after `.eval()`."""

    train: frozenset[str] = frozenset()
    eval: frozenset[str] = frozenset()

    def exceptions(self, training: bool) -> frozenset[str]:
        """Return the paths that differ in the given mode."""
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
        """Return the distinct graphs, that of `.eval()` first."""
        train, evaluate = self._by_mode[True], self._by_mode[False]
        return (evaluate,) if train is evaluate else (evaluate, train)

    @property
    def eval_graph(self) -> fx.Graph:
        """Return the graph that runs after `.eval()`."""
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

    def recompile(self) -> PythonCode:
        """Make the code that runs, in which a large batch passes marked chains in parts, again from the graph."""
        graph = self._graph
        lowered, methods = lower(graph)
        for name, method in methods.items():
            setattr(type(self), name, method)
        self._graph = lowered
        try:
            with quoted_keywords():
                return super().recompile()
        finally:
            self._graph = graph

    def __prepare_scriptable__(self) -> fx.GraphModule:
        """Return the active graph as a plain module, which is what `torch.jit.script` can compile."""
        graph = copy.deepcopy(self._graph)
        for node in graph.nodes:
            # An annotation that is text, as `from __future__ import annotations` makes it, is no type in a graph.
            node.type = None if isinstance(node.type, str) else node.type
        return fx.GraphModule(self, graph)

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Check the graphs and regenerate the code when the block, the outermost of these, has ended."""
        outermost = "_being_edited" not in self.__dict__
        self.__dict__["_being_edited"] = True
        try:
            yield
        finally:
            if outermost:
                del self.__dict__["_being_edited"]
        if outermost:
            for graph in self.graphs:
                graph.owning_module = self
                graph.lint()
            self.recompile()

    def detached_tree(self) -> nn.Module:
        """Return a bare root with this module's children, parameters, buffers, hooks and mode."""
        return bare_copy(self, HOOKS)

    def forget_hooks(self, of: str) -> None:
        """Take from the root the hooks that a module of the given name, or one below it, has defined."""
        for registry in HOOKS:
            hooks = getattr(self, registry)
            if isinstance(hooks, dict):
                kept = [(key, hook) for key, hook in hooks.items() if not home(hook).startswith(of)]
                self.__dict__[registry] = OrderedDict(kept)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of this module besides children, parameters and buffers."""
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
        self._adopt(own_copy(tree, dict(computed_copies(tree))))

    def shallow_copy(self) -> TracedModule:
        """Return a traced module with graphs and tree of its own that shares leaf modules and parameters with this."""
        state = self._state()
        state["tree"] = copy_containers(state["tree"], self.leaf_paths())
        return rebuild(state)

    def leaf_paths(self) -> set[str]:
        """Return the paths of the modules that the graphs call, or give to an operator, as exported contexts do."""
        nodes = [node for graph in self.graphs for node in graph.nodes]
        read = {str(node.target) for node in nodes if node.op == "get_attr"}
        given = {path for path, _ in self.named_modules() if path in read}
        return {str(node.target) for node in nodes if node.op == "call_module"} | given

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

    @property
    def origin(self) -> Any:
        """Return the source of the graph, from which `pickle` rebuilds it; None if it is not known."""
        return self.__dict__.get("_origin")

    @origin.setter
    def origin(self, origin: Any) -> None:
        self.__dict__["_origin"] = origin

    def __reduce__(self) -> tuple[Any, ...]:
        found = None if self.origin is None else self.origin.reduced(self)
        return found or (rebuild, (self._state(),))

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModule:
        twin = rebuild(copy.deepcopy(self._state(), memo))
        twin.origin = self.origin
        memo[id(self)] = twin
        return twin


def rebuild(state: dict[str, Any]) -> TracedModule:
    """Make the traced module again from what `pickle` kept of it."""
    graphs = [decode_graph(encoded) for encoded in state["graphs"]]
    traced = TracedModule(state["tree"], graphs[0], graphs[-1], state["modes"], state["name"])
    traced.meta.update(state["meta"])
    traced.__dict__.update(state["attributes"])
    return traced
