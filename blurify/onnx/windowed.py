"""ONNX's convolutions, poolings and resizes as those of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from blurify.onnx.op import Call, Op, opaque
from blurify.onnx.windows import Window, window_of

aten = torch.ops.aten


def conv(op: Op) -> Call | None:
    """Mirror a convolution; an integer one has scales and zero points besides its map and weights."""
    if op.node.op_type == "QLinearConv":
        return _conv(op, op.inputs[0], op.inputs[3], None)
    bias = op.inputs[2] if op.has(2) else None
    return _conv(op, op.inputs[0], op.inputs[1], bias)


def conv_integer(op: Op) -> Call | None:
    """Mirror a convolution of integers."""
    return _conv(op, op.inputs[0], op.inputs[1], None)


CONVS: dict[int, Any] = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}


def _conv(op: Op, source: Any, weight: Any, bias: Any) -> Call | None:
    window = window_of(op.node, op.scope)
    if window is None or window.axes not in CONVS:
        return None
    dense = (list(window.stride), list(window.begin), list(window.dilation), op.get("group", 1))
    return CONVS[window.axes], (source, weight, bias, *dense)


MAXIMA: dict[int, Any] = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}
PAIRS: dict[int, Any] = {
    1: aten.max_pool1d_with_indices.default,
    2: aten.max_pool2d_with_indices.default,
    3: aten.max_pool3d_with_indices.default,
}
AVERAGES: dict[int, Any] = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
POWERS: dict[int, Any] = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}


def max_pool(op: Op) -> Call | None:
    """Mirror a max pooling, one that gives indices too as PyTorch's."""
    window = window_of(op.node, op.scope)
    table = PAIRS if len(op.node.output) > 1 and op.node.output[1] else MAXIMA
    if window is None or window.axes not in table:
        return None
    return table[window.axes], (*_window(op, window), list(window.dilation), window.ceil_mode)


def avg_pool(op: Op) -> Call | None:
    """Mirror an average pooling."""
    window = window_of(op.node, op.scope)
    if window is None or window.axes not in AVERAGES or max(window.dilation) > 1:
        return None
    return AVERAGES[window.axes], (*_window(op, window), window.ceil_mode, bool(op.get("count_include_pad", 0)))


def lp_pool(op: Op) -> Call | None:
    """Mirror a power-average pooling."""
    window = window_of(op.node, op.scope)
    if window is None or window.axes not in POWERS or max(window.dilation) > 1:
        return None
    return POWERS[window.axes], (op.inputs[0], float(op.get("p", 2)), list(window.kernel), list(window.stride))


def _window(op: Op, window: Window) -> tuple[Any, ...]:
    return op.inputs[0], list(window.kernel), list(window.stride), list(window.begin)


TRANSPOSED: dict[int, Any] = {
    1: aten.conv_transpose1d.default,
    2: aten.conv_transpose2d.input,
    3: aten.conv_transpose3d.input,
}


def conv_transpose(op: Op) -> Call | None:
    """Mirror a transposed convolution."""
    window = window_of(op.node, op.scope)
    if window is None or window.axes not in TRANSPOSED:
        return None
    bias = op.inputs[2] if op.has(2) else None
    return TRANSPOSED[window.axes], (op.inputs[0], op.inputs[1], bias, list(window.stride))


RESIZE_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


def resize(op: Op) -> Call | None:
    """Mirror a resize, whose factors its sizes tell."""
    if op.get("antialias", 0):
        return opaque, op.inputs
    return F.interpolate, (op.inputs[0], None, None, RESIZE_MODES.get(op.get("mode", "nearest"), "nearest"))
