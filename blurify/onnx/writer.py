"""New nodes and constants in an ONNX graph, in operators of the file's own opset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from blurify.onnx.scopes import graphs_in

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
FLOATING = {FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
INTEGERS = {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
# Before this version of the format every initializer was an input too.
FREE_INITIALIZERS = 4


@dataclass
class Names:
    """All names of a file, which new ones must differ from, and the constants that were added."""

    model: Any
    taken: set[str] = field(default_factory=set)
    constants: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for graph in graphs_in(self.model.graph):
            self.taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
            self.taken |= {name for node in graph.node for name in (node.name, *node.input, *node.output)}

    def new(self, hint: str) -> str:
        """Return a name that nothing has."""
        name, number = hint, 1
        while name in self.taken:
            number += 1
            name = f"{hint}_{number}"
        self.taken.add(name)
        return name


@dataclass
class Writer:
    """Nodes that are made one after another, for one place of a graph."""

    names: Names
    opset: int
    prefix: str
    nodes: list[Any] = field(default_factory=list)

    def emit(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = self.names.new(f"{self.prefix}/{kind}")
        output = output or self.names.new(f"{name}_output")
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def constant(self, numbers: Any, kind: int = INT64) -> str:
        """Return the name of a tensor of such numbers, one for all nodes that read it."""
        array = np.asarray(numbers).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        key = (kind, array.shape, array.tobytes())
        if key in self.names.constants:
            return self.names.constants[key]
        name = self.names.new(f"blurify_constant_{len(self.names.constants)}")
        tensor = onnx.numpy_helper.from_array(array, name)
        if self.names.model.ir_version < FREE_INITIALIZERS:
            return self.emit("Constant", [], name + "_value", value=tensor)
        self.names.model.graph.initializer.append(tensor)
        self.names.constants[key] = name
        return name

    def pad(self, source: str, pads: Sequence[int] | str, mode: str, value: str = "") -> str:
        """Pad a value: before all axes, then behind all; a name stands for pads that are computed."""
        if not isinstance(pads, str) and not any(pads):
            return source
        if self.opset < 11:
            numbers: dict[str, Any] = {"paddings" if self.opset < 2 else "pads": pads}
            return self.emit("Pad", [source], mode=mode, **numbers)
        inputs = [source, pads if isinstance(pads, str) else self.constant(pads)]
        return self.emit("Pad", [*inputs, value] if value else inputs, mode=mode)

    def slice(self, source: str, axis: int, start: int, end: int) -> str:
        """Take a part of a value along one axis."""
        if self.opset < 10:
            return self.emit("Slice", [source], starts=[start], ends=[end], axes=[axis])
        return self.emit("Slice", [source, *(self.constant([number]) for number in (start, end, axis))])

    def shape(self, source: str, start: int, end: int) -> str:
        """Return the sizes of some axes of a value, as numbers that are computed."""
        return self.slice(self.emit("Shape", [source]), 0, start, end)

    def join(self, parts: Iterable[str], axis: int = 0) -> str:
        """Join values along an axis."""
        return self.emit("Concat", list(parts), axis=axis)
