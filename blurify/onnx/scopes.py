"""The graph of an ONNX file and the graphs inside it, which are the bodies of `If`, `Loop` and `Scan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

STANDARD = ("", "ai.onnx")
# Of weights that are looked at: those of a depthwise convolution have some thousands.
MOST_NUMBERS = 2**20


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph: the names that a plan has for its nodes, and the scope that it lies in, as the body of `owner`."""

    graph: Any
    number: int
    paths: tuple[str, ...]
    opset: int
    parent: Scope | None = None
    owner: Any = None
    folder: Path | None = None

    @cached_property
    def index(self) -> dict[str, int]:
        """Return the position of every node by its name in the plan."""
        return {path: number for number, path in enumerate(self.paths)}

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """Return the initializers of the graph and what its `Constant` nodes hold."""
        found = {tensor.name: tensor for tensor in self.graph.initializer}
        held = ((node.output[0], constant_of(node)) for node in self.graph.node if node.op_type == "Constant")
        return found | {name: value for name, value in held if value is not None}

    @cached_property
    def inputs(self) -> list[Any]:
        """Return what the graph is given; of old files the weights are listed among it."""
        weights = {tensor.name for tensor in self.graph.initializer}
        return [given for given in self.graph.input if given.name not in weights]

    def constant(self, name: str) -> Any:
        """Return the tensor that a value is in the file, in this graph or around it; None for what is computed."""
        found = self.tensors.get(name)
        return found if found is not None or self.parent is None else self.parent.constant(name)

    def numbers(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the numbers of a small constant; None of what is large, or is computed."""
        tensor = self.constant(name) if name else None
        return None if tensor is None else numbers_of(tensor, self.folder)


def numbers_of(tensor: Any, folder: Path | None) -> np.ndarray[Any, Any] | None:
    """Return the numbers of a small tensor, in the file itself or in another in its folder; None of a large one."""
    if prod(tensor.dims) > MOST_NUMBERS or (is_external(tensor) and folder is None):
        return None
    return np.asarray(numpy_helper.to_array(tensor, str(folder or "")))


def constant_of(node: Any) -> Any:
    """Return what a `Constant` node holds as a tensor; None for what is none."""
    (given,) = node.attribute if len(node.attribute) == 1 else (None,)
    if given is None or given.name == "value":
        return None if given is None else given.t
    if given.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        return None
    kind = np.float32 if "float" in given.name else np.int64
    return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(given), kind))


def is_external(tensor: Any) -> bool:
    """Return whether the numbers of a tensor lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def scopes_of(model: Any, folder: Path | None = None) -> list[Scope]:
    """Return all graphs of a file, the outermost first; each node has a name that no other node has.

    In the folder lie the files of weights that are not in the file itself.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 1)
    named = Counter(node.name for graph in graphs_in(model.graph) for node in graph.node)
    found: list[Scope] = []
    _collect(model.graph, opset, named, found, folder)
    return found


def _collect(
    graph: Any,
    opset: int,
    named: Mapping[str, int],
    found: list[Scope],
    folder: Path | None,
    parent: Scope | None = None,
    owner: Any = None,
) -> None:
    # Nodes need no name, and several may have the same.
    number = len(found)
    paths = (
        node.name if node.name and named[node.name] == 1 else f"{node.name or node.op_type}#{number}.{at}"
        for at, node in enumerate(graph.node)
    )
    scope = Scope(graph, number, tuple(paths), opset, parent, owner, folder)
    found.append(scope)
    for node in graph.node:
        for body in bodies(node):
            _collect(body, opset, named, found, folder, scope, node)


def graphs_in(graph: Any) -> Iterator[Any]:
    """Yield a graph and all inside it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs_in(body)


def bodies(node: Any) -> list[Any]:
    """Return the graphs that a node runs."""
    single = [given.g for given in node.attribute if given.type == onnx.AttributeProto.GRAPH]
    return single + [graph for given in node.attribute for graph in given.graphs]


def captured(graph: Any) -> list[str]:
    """Return the values that a body reads of the graphs around it."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    read = [
        name for node in graph.node for name in (*node.input, *(n for body in bodies(node) for n in captured(body)))
    ]
    return list(dict.fromkeys(name for name in (*read, *(o.name for o in graph.output)) if name and name not in own))


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, text as text."""
    found = next((given for given in node.attribute if given.name == name), None)
    if found is None:
        return default
    value = onnx.helper.get_attribute_value(found)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give a node's attribute a value, or none where it is None."""
    kept = [given for given in node.attribute if given.name != name]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def numbers(node: Any, scope: Scope, position: int, name: str = "") -> list[Any] | None:
    """Return the numbers of a constant input of a node, or of the attribute that was there before it was an input."""
    told = attribute(node, name) if name else None
    if told is not None:
        return [told] if isinstance(told, (int, float)) else list(told)
    found = scope.numbers(node.input[position]) if position < len(node.input) else None
    return None if found is None else np.atleast_1d(found).tolist()
