"""The shape of every node of a graph, found by running it on fake tensors, or on real ones where it reads values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export._tree_utils import reorder_kwargs
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.immutable_collections import immutable_list
from torch.nn.modules import batchnorm
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from blurify.graph.module import TracedModule
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating

Shape = tuple[int, ...]
Shapes = tuple["Shape | None", "Shape | None"]


class ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every node's output, of a tuple's first tensor."""

    def __init__(self, module: fx.GraphModule, graph: fx.Graph, fake: bool) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.fake = fake
        self.shapes: dict[fx.Node, Shape] = {}
        self.read: dict[Any, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node and keep its shape."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            self.shapes[n] = tuple(first.shape)
        return result

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Read a tensor of the model's as a stand-in: what only reads and writes real ones would run for real."""
        value = super().get_attr(target, args, kwargs)
        if not self.fake or not isinstance(value, Tensor):
            return value
        if target not in self.read:
            mode = detect_fake_mode()
            self.read[target] = value.clone() if mode is None else mode.from_tensor(value, static_shapes=True)
        return self.read[target]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the module; a batch-norm gives the size that it is fed, and fake tensors are slow to find that out."""
        if self.fake and isinstance(self.fetch_attr(str(target)), batchnorm._BatchNorm) and args:
            return torch.empty_like(args[0])
        return super().call_module(target, args, kwargs)

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the next value; a starred parameter has one, too: all that it takes."""
        return next(self.args_iter) if target.startswith("*") else super().placeholder(target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Return the node's arguments, lists as the generated code would make them: some functions edit theirs."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return _editable(args), _editable(kwargs)


def _editable(value: Any) -> Any:
    if isinstance(value, immutable_list):
        return [_editable(item) for item in value]
    if type(value) is tuple:
        return tuple(_editable(item) for item in value)
    if isinstance(value, dict):
        return {key: _editable(item) for key, item in value.items()}
    return value


def placeholder_values(graph: fx.Graph, inputs: Inputs) -> list[Any]:
    """Return one value for each placeholder, in order; those that the inputs do not give keep their default."""
    names = [node for node in graph.nodes if node.op == "placeholder"]
    if not isinstance(graph._codegen, _PyTreeCodeGen):
        targets = [str(node.target) for node in names]
        plain = [target for target in targets if not target.startswith("*")]
        given = dict(zip(plain, inputs.args, strict=False)) | inputs.kwargs
        rest = {key: value for key, value in inputs.kwargs.items() if key not in plain}
        starred = {1: inputs.args[len(plain) :], 2: rest}
        return [
            starred[target.count("*")]
            if target.startswith("*")
            else given.get(target, node.args[0] if node.args else None)
            for node, target in zip(names, targets, strict=True)
        ]
    info = graph._codegen.pytree_info
    return list(tree_flatten((inputs.args, reorder_kwargs(inputs.kwargs, info.in_spec)))[0])


def output_shapes(traced: TracedModule, inputs: Inputs, training: bool = False) -> dict[str, Shape]:
    """Return the output shape of every node of one mode's graph, by path. What the model raises is let through."""
    try:
        with evaluating(traced), without_arithmetic(traced, inputs) as fake:
            return _recorded(traced, fake, training, True)
    except Exception:
        # What reads values, or knows no fake tensors, runs on real ones, and in a copy: it may count.
        twin = copy.deepcopy(traced)
        with evaluating(twin):
            return _recorded(twin, inputs.copied(), training, False)


def _recorded(traced: TracedModule, inputs: Inputs, training: bool, fake: bool) -> dict[str, Shape]:
    graph = traced.graphs[-1] if training else traced.eval_graph
    recorder = ShapeRecorder(traced, graph, fake)
    recorder.run(*placeholder_values(graph, inputs), enable_io_processing=False)
    return {node.meta["path"]: shape for node, shape in recorder.shapes.items()}


@contextmanager
def without_arithmetic(traced: TracedModule, inputs: Inputs) -> Iterator[Inputs]:
    """Let sizes be found without values; gives what to run on. A model on the meta device has none as it is."""
    tensors = chain(traced.parameters(), traced.buffers(), tree_leaves((inputs.args, inputs.kwargs)))
    if all(tensor.is_meta for tensor in tensors if isinstance(tensor, Tensor)):
        yield inputs
        return
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = tree_map_only(Tensor, lambda t: mode.from_tensor(t, static_shapes=True), (inputs.args, inputs.kwargs))
        yield Inputs(*fake)


def node_shapes(traced: TracedModule, inputs: Inputs) -> dict[str, Shapes]:
    """Return the shapes of the first tensor fed to every node of the eval graph and of its output, by path."""
    outputs = output_shapes(traced, inputs)
    shapes = {}
    for node in traced.eval_graph.nodes:
        sources = [outputs.get(source.meta["path"]) for source in node.all_input_nodes]
        shapes[node.meta["path"]] = (sources[0] if sources else None, outputs.get(node.meta["path"]))
    return shapes
