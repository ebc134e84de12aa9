"""Types and sizes of all values, by ONNX's own shape inference on the graph without its weights' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from blurify.onnx.scopes import Scope, graphs_in, is_external, numbers_of

# A larger weight says nothing of sizes.
SMALL = 1024


@dataclass(frozen=True)
class Value:
    """What is known of one value: its element type, 0 where it is not known, and its sizes, each None where open."""

    kind: int = 0
    dims: tuple[int | None, ...] | None = None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Return the sizes if all are known."""
        known = self.dims is not None and None not in self.dims
        return tuple(size or 0 for size in self.dims or ()) if known else None


Table = Mapping[int, Mapping[str, Value]]


@dataclass(frozen=True)
class Shapes:
    """The values of every graph: what holds for any input, and what holds for inputs of the example's sizes."""

    any_input: Table
    example: Table

    def of(self, scope: Scope, name: str) -> Value:
        """Return what is known of a value for any input."""
        return _looked_up(self.any_input, scope, name)

    def at_example(self, scope: Scope, name: str) -> Value:
        """Return what is known of a value for inputs of the example's sizes."""
        found = _looked_up(self.example, scope, name)
        return found if found.dims is not None else self.of(scope, name)


def _looked_up(table: Table, scope: Scope | None, name: str) -> Value:
    while scope is not None:
        tensor = scope.tensors.get(name)
        if tensor is not None:
            return Value(tensor.data_type, tuple(tensor.dims))
        found = table[scope.number].get(name)
        if found is not None:
            return found
        scope = scope.parent
    return Value()


def infer(model: Any, example: Mapping[str, tuple[int, ...]], folder: Path | None = None) -> Shapes:
    """Infer sizes for any input, and for inputs of the example's sizes.

    >>> infer(onnx.load("net.onnx"), {"x": (1, 3, 224, 224)})
    """
    bare = without_weights(model, folder)
    told = [_values((*graph.value_info, *graph.output)) for graph in graphs_in(model.graph)]
    for result in bare.graph.output:
        result.type.tensor_type.ClearField("shape")
    anyhow = [before | found for before, found in zip(told, _inferred(bare), strict=True)]
    for given in bare.graph.input:
        if given.name in example:
            kind = given.type.tensor_type.elem_type
            given.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, example[given.name]))
    return Shapes(dict(enumerate(anyhow)), dict(enumerate(_inferred(bare))))


def _inferred(bare: Any) -> list[dict[str, Value]]:
    try:
        result = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # of a graph that contradicts itself, what it says is all that is known
        result = bare
    return [_values((*graph.value_info, *graph.output, *graph.input)) for graph in graphs_in(result.graph)]


def _values(infos: Iterable[Any]) -> dict[str, Value]:
    found = {info.name: value_of(info) for info in infos}
    return {name: value for name, value in found.items() if value.dims is not None}


def value_of(info: Any) -> Value:
    """Return what a file says of a value."""
    told = info.type.tensor_type
    if not told.HasField("shape"):
        return Value(told.elem_type)
    # Some tools write an open size as 0 or -1.
    return Value(told.elem_type, tuple(dim.dim_value if dim.dim_value > 0 else None for dim in told.shape.dim))


def without_weights(model: Any, folder: Path | None = None) -> Any:
    """Return the model with an input in the place of every large weight."""
    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    graph = model.graph
    bare.graph.name = graph.name or "graph"
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    listed = {given.name for given in graph.input}
    for tensor in graph.initializer:
        held = numbers_of(tensor, folder) if is_external(tensor) and prod(tensor.dims) <= SMALL else None
        if held is not None:
            bare.graph.initializer.append(onnx.numpy_helper.from_array(held, tensor.name))
        elif is_external(tensor) or prod(tensor.dims) > SMALL:
            if tensor.name not in listed:
                info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                bare.graph.input.append(info)
        else:
            bare.graph.initializer.append(tensor)
    return bare
