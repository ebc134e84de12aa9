"""The shape of every node's output, found without arithmetic by running the graph on fake tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from blurify.graph_module import TracedModule
from blurify.tracing.modes import evaluating

Shape = tuple[int, ...]


class ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every node that gives one tensor."""

    def __init__(self, module: fx.GraphModule, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.shapes: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node and keep its shape."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


def output_shapes(traced: TracedModule, arguments: tuple[Any, ...]) -> dict[str, Shape]:
    """The output shape of every node of the eval graph, by path. Whatever the model raises is let through."""
    recorder = ShapeRecorder(traced, traced.eval_graph)
    with evaluating(traced), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = tree_map_only(Tensor, lambda t: mode.from_tensor(t, static_shapes=True), arguments)
        recorder.run(*fake)
    return {node.meta["path"]: shape for node, shape in recorder.shapes.items()}


def input_shapes(traced: TracedModule, arguments: tuple[Any, ...]) -> dict[str, Shape]:
    """The shape of the first tensor fed to every node of the eval graph, by path."""
    outputs = output_shapes(traced, arguments)
    shapes = {}
    for node in traced.eval_graph.nodes:
        sources = [outputs.get(source.meta["path"]) for source in node.all_input_nodes]
        if sources and sources[0] is not None:
            shapes[node.meta["path"]] = sources[0]
    return shapes
