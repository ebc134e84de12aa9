"""Multiply-accumulates of an ONNX graph, by the sizes of its values, and the weights that it holds."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from blurify.onnx.scopes import Scope, attribute, graphs_in, scopes_of
from blurify.onnx.shapes import Shapes

Sizes = tuple[int, ...]


def macs_of(model: Any, shapes: Shapes) -> int:
    """Count the multiply-accumulates of convolutions and products whose sizes are known.

    >>> macs_of(model, infer(model, {"x": (1, 3, 224, 224)}))
    1814073344
    """
    return sum(_macs(node, scope, shapes) for scope in scopes_of(model) for node in scope.graph.node)


def weights_of(model: Any) -> int:
    """Count the numbers that a file holds as weights.

    >>> weights_of(model)
    11689512
    """
    return sum(prod(tensor.dims) for graph in graphs_in(model.graph) for tensor in graph.initializer)


def _macs(node: Any, scope: Scope, shapes: Shapes) -> int:
    count = COUNTS.get(node.op_type)
    if count is None:
        return 0
    fed = [shapes.at_example(scope, name).sizes if name else None for name in node.input]
    gives = shapes.at_example(scope, node.output[0]).sizes
    try:
        return 0 if gives is None else count(node, fed, gives)
    except (IndexError, TypeError):  # sizes of an input are not known
        return 0


def _conv(node: Any, fed: list[Any], gives: Sizes) -> int:
    weight = fed[3 if node.op_type == "QLinearConv" else 1]
    return prod(gives) * int(prod(weight[1:]))


def _transposed(node: Any, fed: list[Any], gives: Sizes) -> int:
    return int(prod(fed[0]) * prod(fed[1][1:]))


def _gemm(node: Any, fed: list[Any], gives: Sizes) -> int:
    return prod(gives) * int(fed[0][0 if attribute(node, "transA", 0) else 1])


def _product(node: Any, fed: list[Any], gives: Sizes) -> int:
    return prod(gives) * int(fed[0][-1])


COUNTS: dict[str, Callable[[Any, list[Any], Sizes], int]] = {
    **dict.fromkeys(("Conv", "QLinearConv", "ConvInteger", "FusedConv"), _conv),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    **dict.fromkeys(("MatMul", "MatMulInteger"), _product),
}
