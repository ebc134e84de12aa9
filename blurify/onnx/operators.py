"""ONNX operators as the calls of PyTorch that say the same of positions.

A mirrored graph is read and never run, so a call need not compute what the node computes. It must act on the same
positions, and combine them with the same others. An operator that is not here may do anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from blurify.onnx.op import TORCH_TYPES, Call, Mirror, Op, first, is_constant, opaque, plain
from blurify.onnx.scopes import STANDARD
from blurify.onnx.windowed import avg_pool, conv, conv_integer, conv_transpose, lp_pool, max_pool, resize

aten = torch.ops.aten


def transpose(op: Op) -> Call | None:
    """Mirror a permutation of axes."""
    rank = op.ranks[0]
    order = op.get("perm") or (None if rank is None else list(range(rank))[::-1])
    return None if order is None else (aten.permute.default, (op.inputs[0], list(order)))


def concat(op: Op) -> Call:
    """Mirror a concatenation."""
    return aten.cat.default, (list(op.inputs), op.get("axis", 1))


def split(op: Op) -> Call:
    """Mirror a split; into how many parts does not matter to positions."""
    return aten.split.Tensor, (op.inputs[0], 1, op.get("axis", 0))


def clip(op: Op) -> Call:
    """Mirror a clip."""
    return torch.clamp, op.inputs


def softmax(op: Op) -> Call | None:
    """Mirror a softmax; before opset 13 all axes from one on are one."""
    new = op.scope.opset >= 13
    axis, rank = op.get("axis", -1 if new else 1), op.ranks[0]
    if not new and (rank is None or axis % rank != rank - 1):
        return None
    return torch.softmax, (op.inputs[0], axis)


def batch_norm(op: Op) -> Call | None:
    """Mirror a batch normalization by running statistics."""
    if op.get("training_mode", 0) or len([name for name in op.node.output if name]) > 1:
        return None
    scale, bias, mean, variance = op.inputs[1:5]
    return torch.batch_norm, (op.inputs[0], scale, bias, mean, variance, False, 0.1, 1e-5, False)


def layer_norm(op: Op) -> Call | None:
    """Mirror a normalization over the last axes, of which there are so many."""
    rank = op.ranks[0]
    if rank is None or not all(map(is_constant, op.inputs[1:])):
        return None
    axes = rank - op.get("axis", -1) % rank
    return F.layer_norm, (op.inputs[0], [1] * axes)


def dropout(op: Op) -> Call | None:
    """Mirror a dropout, which does nothing after training."""
    training = op.numbers(2)
    return None if op.has(2) and (training is None or training[0]) else (torch.clone, op.inputs[:1])


def cast(op: Op) -> Call | None:
    """Mirror a cast to a type that PyTorch has."""
    kind = TORCH_TYPES.get(op.get("to", 0))
    return None if kind is None else (aten._to_copy.default, (op.inputs[0], kind))


def quantize(op: Op) -> Call | None:
    """Mirror a quantization by constants."""
    return (aten._to_copy.default, (op.inputs[0], torch.uint8)) if all(map(is_constant, op.inputs[1:])) else None


def dequantize(op: Op) -> Call | None:
    """Mirror the way back from integers, of a map or of stored weights."""
    return (aten._to_copy.default, (op.inputs[0], torch.float32)) if all(map(is_constant, op.inputs[1:])) else None


def reduction(function: Callable[..., Any]) -> Mirror:
    """Mirror a reduction over named axes, over all where none are named."""

    def mirror(op: Op) -> Call | None:
        axes = op.numbers(1, "axes")
        if axes is None and op.has(1):
            return None
        if axes is None and op.get("noop_with_empty_axes", 0):
            return torch.clone, op.inputs[:1]
        return function, (op.inputs[0], axes or [], bool(op.get("keepdims", 1)))

    return mirror


def global_pool(function: Callable[..., Any]) -> Mirror:
    """Mirror a pooling of the whole map."""

    def mirror(op: Op) -> Call | None:
        rank = op.ranks[0]
        return None if rank is None else (function, (op.inputs[0], list(range(2, rank)), True))

    return mirror


def along_one(function: Callable[..., Any]) -> Mirror:
    """Mirror what puts in or takes out one axis."""

    def mirror(op: Op) -> Call | None:
        axes = op.numbers(1, "axes")
        return None if axes is None or len(axes) != 1 else (function, (op.inputs[0], int(axes[0])))

    return mirror


def pad(op: Op) -> Call | None:
    """Mirror a padding by constants, the last axis first."""
    numbers = op.numbers(1, "pads")
    if numbers is None or op.has(3):
        return None
    half = len(numbers) // 2
    pairs = [int(side) for axis in reversed(range(half)) for side in (numbers[axis], numbers[axis + half])]
    return F.pad, (op.inputs[0], pairs)


def reshape(op: Op) -> Call | None:
    """Mirror a reshape; what its sizes are, those of its output tell."""
    return aten.view.default, (op.inputs[0], [])


def depth_to_space(op: Op) -> Call:
    """Mirror a move of channels to positions."""
    return F.pixel_shuffle, (op.inputs[0], op.get("blocksize", 1))


def space_to_depth(op: Op) -> Call:
    """Mirror a move of positions to channels."""
    return F.pixel_unshuffle, (op.inputs[0], op.get("blocksize", 1))


OPERATORS: dict[str, Mirror] = {
    **{
        name: plain(getattr(torch, name.lower()))
        for name in (
            "Abs Acos Acosh Add Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor Log Mul Neg Pow Reciprocal "
            "Relu Round Sigmoid Sign Sin Sinh Sqrt Sub Tan Tanh Where"
        ).split()
    },
    **{name: first(F.elu) for name in "Elu Selu Celu Gelu Softplus Softsign HardSigmoid HardSwish LeakyRelu".split()},
    **{name: first(F.elu) for name in "Mish Swish ThresholdedRelu Shrink".split()},
    **dict.fromkeys(("Max", "Sum", "Mean"), plain(torch.maximum)),
    **dict.fromkeys(("Min", "PRelu", "Mod"), plain(torch.minimum)),
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), plain(torch.eq)),
    **dict.fromkeys(("And", "Or", "Xor"), plain(torch.logical_and)),
    **dict.fromkeys(("Not", "IsNaN", "IsInf"), first(torch.logical_not)),
    "Identity": plain(torch.clone),
    "Conv": conv,
    "QLinearConv": conv,
    "ConvInteger": conv_integer,
    "MaxPool": max_pool,
    "AveragePool": avg_pool,
    "LpPool": lp_pool,
    "ConvTranspose": conv_transpose,
    "Resize": resize,
    "Upsample": resize,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Clip": clip,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": first(torch.instance_norm),
    "GroupNormalization": first(torch.group_norm),
    "LayerNormalization": layer_norm,
    "LRN": first(F.local_response_norm),
    "Dropout": dropout,
    "Cast": cast,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "GlobalAveragePool": global_pool(torch.mean),
    "GlobalMaxPool": global_pool(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "ReduceMax": reduction(torch.amax),
    "ReduceMin": reduction(torch.amin),
    "ReduceProd": reduction(torch.prod),
    "Unsqueeze": along_one(aten.unsqueeze.default),
    "Squeeze": along_one(aten.squeeze.dim),
    "Pad": pad,
    "Reshape": reshape,
    "Flatten": reshape,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Gemm": lambda op: (F.linear, op.inputs[:2]),
    "MatMul": lambda op: (F.linear, op.inputs[:2]),
}


def call_of(op: Op) -> Call:
    """Return the call that mirrors a node."""
    mirror = OPERATORS.get(op.node.op_type) if op.node.domain in STANDARD else None
    called = mirror(op) if mirror is not None and op.inputs else None
    # What reads an input twice over, or leaves one out in the middle, is told apart by nobody.
    return called or (opaque, tuple(each for each in op.inputs if each is not None))
