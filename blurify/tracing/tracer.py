"""The symbolic tracer: leaf knowledge, and the module in whose `forward` each node arose."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import Node

from blurify.errors import TraceError
from blurify.graph.hosts import BlurWrapper
from blurify.graph.paths import IN_PLACE, assign_paths
from blurify.graph.tree import foreign_hooks
from blurify.tracing import modes
from blurify.tracing.answers import Answers
from blurify.tracing.arguments import arguments
from blurify.tracing.calls import ModuleCall
from blurify.tracing.classes import answered_classes
from blurify.tracing.failures import describe_failure
from blurify.tracing.in_place import Latest
from blurify.tracing.inputs import Inputs
from blurify.tracing.leaves import is_foreign_blur, kept_whole, leaf_classes, leaf_functions, strided_leaves
from blurify.tracing.omissions import Attributes, chance, contexts, entered, tensors_of, written_path
from blurify.tracing.proxies import TensorProxy, TruthfulProxy
from blurify.tracing.questions import Questions, gives_one_tensor
from blurify.tracing.recording import Recording, is_proxy
from blurify.tracing.wrappers import seen_through, wrapped

CHANCE = "random numbers that forward draws in Python or NumPy"


class LeafAwareTracer(fx.Tracer):
    """`torch.fx.Tracer` that keeps known leaves whole, remembers every node's module, and records the model's tensors.

    What the graph leaves out of `forward` is in `omitted`, with the module whose `forward` does it. The modules at the
    paths in `whole` stay whole, so that they go on doing it.
    """

    def __init__(
        self, inputs: Inputs | None = None, opened: Container[type[nn.Module]] = (), whole: Container[str] = ()
    ) -> None:
        super().__init__(autowrap_functions=leaf_functions())
        self.leaves = leaf_classes()
        self.inputs = inputs
        self.opened = opened
        self.whole = whole
        self.watchful = False
        self.scopes: dict[Node, tuple[str, bool]] = {}
        self.running: list[ModuleCall] = []
        self.failed_in = ""
        self.unhooked: set[str] = set()
        self.omitted: dict[tuple[str, str], None] = {}
        self.tensors: set[Node] = set()
        self.recording = False
        self._made: dict[int, tuple[Tensor, Node]] = {}
        self._read: dict[str, Node] = {}

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """Record `root.forward`; its attributes, its mode and random generators are for the caller to restore."""
        self.questions = Questions(self, Answers(root, self.inputs))
        self.latest = Latest(root)
        self.owned = tensors_of(root)
        # What `forward` itself hooks from now on is a part of it.
        self.hooked = {module for module in root.modules() if foreign_hooks(module)}
        self._paths = {id(tensor): path for path, tensor in self.owned.items()}
        self._contexts, self._chance, self._attributes = contexts(), chance(), Attributes(root)
        with Recording(self), answered_classes(self.questions.class_of, self.questions.number):
            self.recording = True
            try:
                graph = super().trace(root)
            finally:
                self.recording = False
        self.questions.forget(graph)
        self.latest.forget_dropped(graph)
        return graph

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Make a placeholder of each argument; those that `inputs` does not give keep their default."""
        root: Any = self.root
        positional, keyword = arguments(self, root, self.inputs)

        def call() -> Any:
            result = root.forward(*positional, **keyword)
            self._look_back()
            return result

        call.__annotations__ = dict(getattr(inspect.unwrap(root_fn), "__annotations__", {}))
        return call, []

    def _look_back(self) -> None:
        """Record what `forward` put in the place of the model's tensors, and note what else it left behind."""
        for path, old, new in list(self._attributes.set_since()):
            if not (is_proxy(new) and id(old) in self._paths):
                self.omit(f"the attribute {path!r} that forward sets", path.rpartition(".")[0])
            elif written_path(new.node, IN_PLACE) != path:
                self.create_proxy("call_method", "copy_", (self.proxy(self.reading(path)), new), {})
        self._look_at_chance(during_call=False)

    def _look_at_chance(self, during_call: bool = True) -> None:
        """Note whether the module that ran until now drew random numbers that no graph draws."""
        # To look is slow, and few models draw any.
        if during_call and not self.watchful:
            return
        now = chance()
        if now != self._chance:
            self.omit(CHANCE)
            self._chance = now

    def proxy(self, node: Node) -> fx.Proxy:
        """Return the value that stands for the node while `forward` runs."""
        return TruthfulProxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Give a proxy of a parameter or buffer: a method of the tensor itself takes no proxies for sizes."""
        path = self._paths.get(id(attr_val)) if self.recording else None
        return attr_val if path is None else TensorProxy(path, attr_val, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether the call of `m` stays one node."""
        if module_qualified_name in self.whole:
            return True
        if type(m) in self.opened or wrapped(m) is not None:
            return False
        return isinstance(m, self.leaves) or is_foreign_blur(m) or super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        """Record that a mapping of a class of its own is made of its items; a plain graph would return a dict."""
        kind: Any = type(a)
        if issubclass(kind, fx.Proxy):
            return self.latest.of(a.node)
        if issubclass(kind, Tensor):
            return self._tensor_arg(a)
        if issubclass(kind, dict) and kind not in (dict, immutable_dict):
            items: Any = super().create_arg(dict(a))
            if dataclasses.is_dataclass(a):
                return self.create_node("call_function", kind, (), {str(key): value for key, value in items.items()})
            return self.create_node("call_function", kind, (items,), {})
        return super().create_arg(a)

    def _tensor_arg(self, tensor: Tensor) -> Any:
        if id(tensor) in self._made:
            return self._made[id(tensor)][1]
        path = self._paths.get(id(tensor))
        return super().create_arg(tensor) if path is None else self.reading(path)

    def reading(self, path: str) -> Node:
        """Return the node that reads a tensor of the model's."""
        if path not in self._read:
            self._read[path] = self.create_node("get_attr", path, (), {})
        return self._read[path]

    def is_inside_opened(self) -> bool:
        """Return whether a leaf is being looked into that its library keeps whole."""
        return any(type(self.root.get_submodule(call.path)) in self.opened for call in self.running)

    def concerns(self, value: object) -> bool:
        """Return whether what is done to the value must be recorded."""
        return is_proxy(value) or id(value) in self._paths or id(value) in self._made

    def path_of_tensor(self, tensor: object) -> str | None:
        """Return the path of a tensor of the model's."""
        return self._paths.get(id(tensor))

    def promote(self, tensor: Tensor) -> None:
        """Let a constant that `forward` writes to be a node, made again in each run."""
        self._made[id(tensor)] = (tensor, self.create_proxy("call_method", "clone", (tensor,), {}).node)

    def omit(self, fact: str, path: str | None = None) -> None:
        """Note what the graph leaves out, of the module that is running unless another one does it."""
        self.omitted[fact, (self.running[-1].path if self.running else "") if path is None else path] = None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record the module in which a failure arises, the innermost first, and the modules whose hooks are lost."""
        path = self.path_of_module(m)
        if m in self.hooked and not self.is_leaf_module(m, path):
            # Run now, a hook would see no values and act once; a graph has no place for it.
            self.unhooked.add(path)
            forward = m.forward
        self._look_at_chance()
        self.running.append(ModuleCall.of(path, args, kwargs, self.latest.of, entered(self._contexts) is not None))
        try:
            result = super().call_module(m, forward, args, kwargs)
            self._look_at_chance()
        except Exception:
            self.failed_in = self.failed_in or path
            raise
        finally:
            call = self.running.pop()
        call.gives = self.latest.of(result.node) if is_proxy(result) else None
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        """Record the module in whose `forward` the node arises, and the calls that were running."""
        node = super().create_node(*args, **kwargs)
        node.meta["within"] = tuple(self.running)
        self.latest.note(node)
        self.scopes[node] = (self.scope.module_path, False)
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if gives_one_tensor(node, module, self.tensors):
            self.tensors.add(node)
        context = entered(self._contexts)
        if context is not None and node.op.startswith("call"):
            outside = (call.path for call in reversed(self.running) if not call.in_context)
            self.omit(f"{context} around a part of {self.scope.module_path or 'the model'}", next(outside, ""))
        return node


@dataclass(frozen=True)
class Recorded:
    """One graph, the values of what it reads by path, the modules whose hooks it leaves out, and what else of which."""

    graph: fx.Graph
    values: Mapping[str, Any]
    unhooked: frozenset[str] = frozenset()
    omitted: tuple[tuple[str, str], ...] = ()


def trace_once(model: nn.Module, inputs: Inputs | None = None, whole: set[str] | None = None) -> Recorded:
    """Trace the model as it stands (mode included). Arguments that `inputs` does not give take their defaults.

    The modules at the paths in `whole` stay whole; those that cannot be traced, and have no site, are added to them.
    """
    whole = set() if whole is None else whole
    # A blur in a host of a leaf's class would be inside the leaf.
    opened = strided_leaves(model) | {type(module) for module in model.modules() if isinstance(module, BlurWrapper)}
    watchful, refusals = False, dict[str, TraceError]()
    found = [modes.Attributes.of(module) for module in model.modules()]
    while True:
        # What another try has set would be taken for the model's own.
        for attributes in found:
            attributes.restore()
        tracer = LeafAwareTracer(inputs, opened, whole)
        tracer.watchful = watchful
        try:
            with seen_through(model):
                graph = tracer.trace(model)
            if watchful or (CHANCE, "") not in tracer.omitted:
                break
            watchful = True  # it is of some use to know where they are drawn
        except Exception as error:
            culprit = _opened_around(model, tracer.failed_in, opened)
            more = set() if culprit else kept_whole(model, tracer.failed_in) - whole
            refusal = TraceError(describe_failure(model, tracer.failed_in, error))
            refusal.__cause__ = error
            # What stopped the tracer in a module says more than that it cannot be called from a graph either.
            refusals.setdefault(tracer.failed_in, refusal)
            if culprit is None and not more:
                raise refusals[tracer.failed_in] from refusals[tracer.failed_in].__cause__
            # It is whole for a reason, then.
            opened = opened - {culprit}
            whole |= more
    if tracer.unhooked and not graph.output_node().all_input_nodes:
        raise TraceError(
            f"{type(model).__name__} gives what hooks collected, on {min(tracer.unhooked)!r} for one, and a graph "
            "does not run these; let it return the maps themselves (timm's feature_cls='getter', say)"
        )
    assign_paths(graph, tracer.scopes, {name for name, _ in model.named_modules()})
    # Some of the model's own tensors have proxies in their place by now.
    values = {path: tracer.owned.get(path, value) for path, value in read_values(graph, model).items()}
    return Recorded(graph, values, frozenset(tracer.unhooked), tuple(tracer.omitted))


def read_values(graph: fx.Graph, owner: nn.Module) -> dict[str, Any]:
    """Return the paths of the recorded module that a graph reads or calls."""
    paths = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    return {path: operator.attrgetter(path)(owner) for path in paths}


def _opened_around(model: nn.Module, path: str, opened: set[type[nn.Module]]) -> type[nn.Module] | None:
    """Return the class of the innermost opened leaf in which the module at `path` lies."""
    while path:
        if type(model.get_submodule(path)) in opened:
            return type(model.get_submodule(path))
        path = path.rpartition(".")[0]
    return None
