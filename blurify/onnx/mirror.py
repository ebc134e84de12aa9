"""An ONNX graph as a graph of PyTorch's operators, which the planner reads. It is never run."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.graph.module import Modes, TracedModule
from blurify.onnx.op import TORCH_TYPES, Op
from blurify.onnx.operators import call_of
from blurify.onnx.scopes import Scope, bodies, captured
from blurify.onnx.shapes import Shapes, Value
from blurify.onnx.slices import slices_of

Sizes = tuple[int, ...]
SLICE = torch.ops.aten.slice.Tensor


@dataclass(frozen=True)
class Mirror:
    """A mirrored graph: which value each of its nodes is, by path, and the sizes of what each gives."""

    traced: TracedModule
    values: Mapping[str, str]
    sizes: Mapping[str, Sizes]

    def shapes_of(self, path: str) -> tuple[Sizes | None, Sizes | None]:
        """Return the sizes of what a node is fed and of what it gives."""
        return self._fed.get(path), self.sizes.get(path)

    @property
    def _fed(self) -> dict[str, Sizes | None]:
        return self.traced.meta["fed"]  # type: ignore[no-any-return]


def mirror(scope: Scope, shapes: Shapes) -> Mirror:
    """Mirror one graph; what it reads of the graphs around it is an input.

    >>> mirror(scopes_of(onnx.load("net.onnx"))[0], shapes).traced.graph.print_tabular()
    """
    made = _Mirroring(scope, shapes)
    for given in scope.inputs:
        made.enter(given.name)
    for name in captured(scope.graph) if scope.parent is not None else ():
        if scope.constant(name) is None and name not in made.nodes:
            made.enter(name)
    for path, node in zip(scope.paths, scope.graph.node, strict=True):
        if node.op_type != "Constant":
            made.call(path, node)
    outputs = [found for result in scope.graph.output if (found := made.read(result.name)) is not None]
    made.graph.output(tuple(outputs)).meta["path"] = "output"
    traced = TracedModule(made.root, made.graph, made.graph, Modes(), "Mirror")
    traced.meta["fed"] = {
        node.meta["path"]: made.sizes.get(node.all_input_nodes[0].meta["path"]) if node.all_input_nodes else None
        for node in made.graph.nodes
    }
    return Mirror(traced, made.values, made.sizes)


@dataclass
class _Mirroring:
    """The mirrored graph while it is made."""

    scope: Scope
    shapes: Shapes
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, Sizes] = field(default_factory=dict)

    def enter(self, name: str) -> None:
        """Mirror an input."""
        self._name(self.graph.placeholder(f"x{len(self.nodes)}"), f"={name}", name)

    def call(self, path: str, node: Any) -> None:
        """Mirror a node."""
        inner = [name for body in bodies(node) for name in captured(body)]
        inputs = tuple(self.read(name) for name in dict.fromkeys((*node.input, *inner)) if name or not inner)
        if not inner:
            inputs = tuple(self.read(name) for name in node.input)
        ranks = tuple(self._rank(name) for name in node.input)
        op = Op(node, self.scope, inputs, ranks)
        steps = self._slices(path, op) if node.op_type == "Slice" else None
        made = steps or self.graph.call_function(*call_of(op))
        if len([name for name in node.output if name]) <= 1:
            self._name(made, made.meta.get("path", path), next(iter(node.output), ""))
            return
        self._name(made, path, "", self._sizes(node.output[0]))
        for number, name in enumerate(node.output):
            if name:
                item = self.graph.call_function(operator.getitem, (made, number))
                self._name(item, f"{path}[{number}]", name)

    def read(self, name: str) -> fx.Node | None:
        """Return the node of a value; of a tensor in the file one that reads it."""
        tensor = self.scope.constant(name) if name else None
        if tensor is None or name in self.nodes:
            return self.nodes.get(name)
        kept = self.scope.numbers(name) if _may_be_taps(tensor) else None
        kind = TORCH_TYPES.get(tensor.data_type, torch.float32)
        held = f"c{len(self.nodes)}"
        value = torch.empty(tuple(tensor.dims), dtype=kind, device="meta") if kept is None else _tensor(kept)
        self.root.register_buffer(held, value)
        self._name(self.graph.get_attr(held), f"={name}", name)
        return self.nodes[name]

    def _slices(self, path: str, op: Op) -> fx.Node | None:
        """Mirror a slice by one of PyTorch's for every axis; the site is at the first that steps."""
        parts = slices_of(op.node, op.scope, op.ranks[0])
        node, steps = op.inputs[0], False
        for axis, start, end, step in parts or ():
            node = self.graph.call_function(SLICE, (node, axis, start, end, step))
            own = path if step > 1 and not steps else f"{path}[axis {axis}]"
            steps = steps or step > 1
            self._name(node, own, "")
        return node if parts else None

    def _name(self, node: fx.Node, path: str, name: str, sizes: Sizes | None = None) -> None:
        node.meta["path"] = path
        self.nodes[name] = node
        if name:
            self.values[path] = name
            sizes = self._sizes(name)
            kind = TORCH_TYPES.get(self._value(name).kind, torch.float32)
            if sizes is not None:
                node.meta["val"] = torch.empty(sizes, dtype=kind, device="meta")
        if sizes is not None:
            self.sizes[path] = sizes

    def _value(self, name: str) -> Value:
        return self.shapes.at_example(self.scope, name)

    def _sizes(self, name: str) -> Sizes | None:
        return self._value(name).sizes if name else None

    def _rank(self, name: str) -> int | None:
        dims = self._value(name).dims if name else None
        return None if dims is None else len(dims)


def _may_be_taps(tensor: Any) -> bool:
    """Return whether a tensor may be a fixed low-pass, or is so small that it may be an argument."""
    return len(tensor.dims) < 2 or (len(tensor.dims) > 2 and tensor.dims[1] == 1)


def _tensor(numbers: Any) -> Tensor:
    try:
        return torch.from_numpy(numbers.astype("float32") if numbers.dtype.kind not in "fiub" else numbers.copy())
    except TypeError:  # a type that PyTorch lacks
        return torch.empty(numbers.shape, device="meta")
