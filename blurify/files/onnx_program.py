"""ONNX in: a graph of standard operators, by way of onnx2torch to a program of PyTorch's, and back by `onnx_graph`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from blurify.errors import BlurifyError, FileError, one_line
from blurify.files.program import Signature, as_graph
from blurify.tracing.export import quietly
from blurify.tracing.inputs import DEFAULT_INPUT_SIZE, random_batch

# The last that onnx2torch knows most operators of.
OPSET = 17
UNKNOWN = re.compile(r"operation_type='(\w+)'")


def read_onnx(path: Path, size: tuple[int, ...] | None = None) -> tuple[fx.GraphModule, Signature]:
    """The program that an ONNX file holds, as a graph over its own weights, and what it takes.

    Sizes that the file leaves open are open, and `size` is that of the example of an image then.

    >>> model, signature = read_onnx(Path("resnet18.onnx"))

    Raises:
        BlurifyError: onnx or onnx2torch is not installed.
        FileError: the file is damaged, or has an operator that onnx2torch does not know.
    """
    require_onnx2torch()
    import onnx
    import onnx2torch

    try:
        proto: Any = onnx.load(path)
        opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
        onnx.checker.check_model(proto)
        inputs, outputs = _names(proto.graph)
        examples = [_example(given, size) for given in _inputs(proto.graph)]
    except Exception as error:  # a damaged file can fail in any way at all
        raise FileError(f"{path} is no ONNX file that can be read: {_fact(error)}; save or copy it again.") from error
    opened = tuple(_open_axes(given) for given in _inputs(proto.graph))
    try:
        with quietly(), torch.no_grad():
            # What a graph holds is constant, and so a blur in it is known for one.
            model = with_literal_sizes(onnx2torch.convert(simplified(proto)).eval().requires_grad_(False))
            program = torch.export.export(model, tuple(examples), dynamic_shapes=opened, strict=False)
            graph, signature = as_graph(program)
    except Exception as error:
        found = UNKNOWN.search(str(error))
        fact = f"onnx2torch does not know the operator {found[1]}" if found else _fact(error)
        raise FileError(
            f"{path} cannot be made a program: {fact}; convert the PyTorch model that it was written from."
        ) from error
    return graph, replace(signature, input_names=inputs, output_names=outputs, opset=opset)


def require_onnx2torch() -> None:
    """Refuse, before any slow work, where no ONNX could be read.

    >>> require_onnx2torch()

    Raises:
        BlurifyError: onnx or onnx2torch is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnx2torch  # noqa: F401
    except ImportError as error:
        raise BlurifyError(
            f"reading ONNX needs {error.name}, which is not installed; get it with: pip install 'blurify[onnx]'"
        ) from error


def simplified(proto: Any) -> Any:
    """The same graph in what onnx2torch knows: an older opset, weights without copies, names that are plain."""
    import onnx

    if any(entry.domain in ("", "ai.onnx") and entry.version > OPSET for entry in proto.opset_import):
        lower(proto)
        # What has another form since is refused here.
        onnx.checker.check_model(proto)
    weights = {weight.name for weight in proto.graph.initializer}
    copies = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    for node in list(proto.graph.node):
        if node.op_type == "Identity" and node.output[0] in copies:
            proto.graph.node.remove(node)
            continue
        node.input[:] = [copies.get(name, name) for name in node.input]
        # torch.fx writes names into code.
        node.name = re.sub(r"[^\w./-]", "_", node.name)
        if node.op_type == "Reshape":
            # It tells sizes of nothing from sizes as before, and no map has a size of nothing.
            _drop(node, "allowzero")
    return proto


def _drop(node: Any, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def lower(proto: Any) -> None:
    """Say of a graph that it is of the opset that is known; means and their like have had their axes as input since.

    `onnx.version_converter` has no way down for `Pad`, which every blur has.
    """
    import onnx

    weights = {weight.name: weight for weight in proto.graph.initializer}
    for node in proto.graph.node:
        reduces = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum"
        if reduces and len(node.input) == 2 and node.input[1] in weights:
            axes = onnx.numpy_helper.to_array(weights[node.input.pop()]).tolist()
            _drop(node, "noop_with_empty_axes")
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
    for entry in proto.opset_import:
        entry.version = OPSET if entry.domain in ("", "ai.onnx") else entry.version


def with_literal_sizes(model: fx.GraphModule) -> fx.GraphModule:
    """The same graph with the sizes of reshapes and paddings written in it, where they are stored beside it.

    An export knows what is written in a graph, but not the values of what it is given.
    """
    graph = model.graph
    for node in list(graph.nodes):
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        literal = LITERAL.get(type(module).__name__)
        stored = node.args[1] if literal is not None and len(node.args) == 2 else None
        if literal is not None and isinstance(stored, fx.Node) and stored.op == "get_attr":
            numbers = operator.attrgetter(str(stored.target))(model).tolist()
            with graph.inserting_before(node):
                node.replace_all_uses_with(literal(graph, node.args[0], numbers, module))
            graph.erase_node(node)
    model.recompile()
    return model


def _reshape(graph: fx.Graph, source: fx.Node, sizes: list[int], _: Any) -> fx.Node:
    # A size of 0 is the map's own.
    own = [size or graph.call_method("size", (source, axis)) for axis, size in enumerate(sizes)]
    return graph.call_function(torch.reshape, (source, own))


def _pad(graph: fx.Graph, source: fx.Node, pads: list[int], module: Any) -> fx.Node:
    # What comes before every axis and then what comes after every axis; torch has both of the last axis first.
    rank = len(pads) // 2
    sides = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    while sides[-2:] == [0, 0]:
        del sides[-2:]
    return graph.call_function(torch.nn.functional.pad, (source, sides, module.mode))


LITERAL: dict[str, Callable[[fx.Graph, Any, list[int], Any], fx.Node]] = {
    "OnnxReshape": _reshape,
    "OnnxPadDynamic": _pad,
}


def _inputs(graph: Any) -> list[Any]:
    weights = {weight.name for weight in graph.initializer}
    return [given for given in graph.input if given.name not in weights]


def _names(graph: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(given.name for given in _inputs(graph)), tuple(result.name for result in graph.output)


def _example(given: Any, size: tuple[int, ...] | None) -> Tensor:
    import onnx

    kind = given.type.tensor_type
    dtype = torch.from_numpy(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).type(0).reshape(1)).dtype
    dims = [dim.dim_value for dim in kind.shape.dim]
    # What is open: a batch of two, which torch takes for no constant, and an image of the size that is asked for.
    usual = (2, *(size or DEFAULT_INPUT_SIZE)) if len(dims) == 4 else (2,) * len(dims)
    shape = tuple(dim or usual[axis] for axis, dim in enumerate(dims))
    return (
        random_batch(shape, torch.empty(0, dtype=dtype)) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
    )


def _open_axes(given: Any) -> dict[int, Any]:
    dims = enumerate(given.type.tensor_type.shape.dim)
    return {axis: torch.export.Dim.DYNAMIC for axis, dim in dims if not dim.dim_value}


def _fact(error: BaseException) -> str:
    return one_line(error, 200)
