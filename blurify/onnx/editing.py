"""The changes of one ONNX graph, in place: blurs behind landings, and blurs before what reads a map alone.

The blur's output takes the name that the landing's output had, so nothing that reads it is touched.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from blurify.onnx.blurs import Filtering, emit_blur
from blurify.onnx.scopes import Scope, bodies, captured
from blurify.onnx.shapes import Shapes, Value
from blurify.onnx.writer import FLOAT, INTEGERS, Names, Writer
from blurify.planning.decision import Decision

# Of a map before it is subsampled: the sizes for any input, and those for the example's inputs.
DenseSizes = tuple[tuple[int | None, ...], tuple[int | None, ...]]


@dataclass
class Edit:
    """The changes of one graph: nodes to come before and behind those that there are."""

    scope: Scope
    shapes: Shapes
    names: Names
    before: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    behind: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    stale: set[str] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    blurred: dict[tuple[Any, ...], str] = field(default_factory=dict)
    # What made each value before anything was edited.
    made_by: dict[str, tuple[str, list[str]]] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.scope.graph.node
        self.made_by = {output: (node.op_type, list(node.input)) for node in nodes for output in node.output}

    def node(self, path: str) -> Any:
        """Return a node by its name in the plan."""
        return self.scope.graph.node[self.scope.index[path]]

    def writer(self, path: str) -> Writer:
        """Return what makes nodes for a site."""
        return Writer(self.names, self.scope.opset, f"{path}/blur")

    def value(self, name: str) -> Value:
        """Return what is known of a value for any input."""
        found = self.shapes.of(self.scope, name)
        return found if found.kind else Value(self.kind_of(name), found.dims)

    def kind_of(self, name: str) -> int:
        """Return the element type that a value has since what it is computed from has it; 0 where that is not known.

        Shape inference knows no operators of other domains.
        """
        while name in self.made_by:
            operator, inputs = self.made_by[name]
            if operator.startswith("QLinear"):
                held = [tensor.data_type for each in inputs if (tensor := self.scope.constant(each)) is not None]
                return next((kind for kind in reversed(held) if kind in INTEGERS), 0)
            if operator == "DequantizeLinear" or not inputs:
                return FLOAT
            name = inputs[0]
        return 0

    def example(self, name: str) -> Value:
        """Return what is known of a value for inputs of the example's sizes."""
        return self.shapes.at_example(self.scope, name)

    def finish(self) -> None:
        """Put the new nodes in, and forget what the file says of sizes that have changed."""
        graph = self.scope.graph
        nodes = [
            each
            for number, node in enumerate(graph.node)
            for each in (*self.before[number], *(() if number in self.dropped else (node,)), *self.behind[number])
        ]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        kept = [info for info in graph.value_info if info.name not in self.stale]
        if len(kept) < len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)

    def blur_behind(self, decision: Decision, landing: str, blur: Filtering, sizes: DenseSizes) -> None:
        """Blur the output of the landing, a map of these sizes, under its own name."""
        number, item = self.output_at(landing)
        producer = self.scope.graph.node[number]
        name = producer.output[item]
        value = self.value(name)
        leading = (None, None) if value.dims is None else value.dims[:2]
        value, example = (Value(value.kind, (*leading, *each)) for each in sizes)
        producer.output[item] = dense = self.names.new(f"{name}_dense")
        writer = self.writer(decision.site)
        emit_blur(writer, dense, name, blur, value, example)
        self.behind[number] += writer.nodes

    def output_at(self, landing: str) -> tuple[int, int]:
        """Return the position of a landing's node, and which of its outputs the landing is."""
        if landing in self.scope.index:
            return self.scope.index[landing], 0
        path, item = landing[:-1].rsplit("[", 1)
        return self.scope.index[path], int(item)

    def blur_before(self, decision: Decision, node: Any, blur: Filtering, dims: tuple[int, ...]) -> None:
        """Blur what a node reads, for the node alone, along these axes."""
        source, number = node.input[0], self.scope.index[decision.site]
        key = (source, blur.taps.tobytes(), blur.pad_type, dims)
        if key not in self.blurred:
            writer = self.writer(decision.site)
            value, example = self.value(source), self.example(source)
            rank = len(example.dims or ())
            order = [axis for axis in range(rank) if axis not in dims]
            self.blurred[key] = blurred = self.names.new(f"{source}_blurred")
            if dims == tuple(range(2, 2 + len(dims))):
                emit_blur(writer, source, blurred, blur, value, example)
            else:
                self._blur_moved(writer, source, blurred, blur, (*order, *dims), value)
            self.before[number] += writer.nodes
        node.input[0] = self.blurred[key]

    def _blur_moved(
        self, writer: Writer, source: str, target: str, blur: Filtering, order: tuple[int, ...], value: Value
    ) -> None:
        """Blur axes that are not the last two, or whose map has more than samples and channels before them."""
        moved = writer.emit("Transpose", [source], perm=list(order))
        dims = None if value.dims is None else tuple(value.dims[axis] for axis in order)
        result = writer.names.new(f"{writer.prefix}/blurred")
        extra = len(order) - 2 - blur.axes
        wide = replace(
            blur,
            taps=blur.taps.reshape(*[1] * extra, *blur.taps.shape),
            **{name: ((at,) * extra + getattr(blur, name)) for name, at in (("stride", 1), ("left", 0), ("right", 0))},
        )
        known = Value(value.kind, dims)
        emit_blur(writer, moved, result, wide, known, known)
        writer.emit("Transpose", [result], target, perm=[order.index(axis) for axis in range(len(order))])

    def forget_between(self, start: str, end: str) -> None:
        """Forget the sizes of what a map goes through on its way to the landing."""
        first, (last, _) = self.scope.index[start], self.output_at(end)
        changed = set(self.scope.graph.node[first].output)
        for node in self.scope.graph.node[first + 1 : last]:
            read = {*node.input, *(name for body in bodies(node) for name in captured(body))}
            changed |= set(node.output) if read & changed else set()
        self.stale |= changed - {""}
