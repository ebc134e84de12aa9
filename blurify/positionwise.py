"""Which nodes act on every position alone, so that subsampling commutes with them (law 3 of the rewrite).

`EXACT` nodes commute exactly. `STATISTICS` nodes (GroupNorm, InstanceNorm) act on every position alike, by statistics
over all positions, which subsampling changes a little. Parameters with spatial extent are never position-wise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import activation, batchnorm, dropout, instancenorm

from blurify.graph_module import TracedModule
from blurify.tracing.constants import constant_shape
from blurify.tracing.leaves import exact_classes, statistics_classes


class Crossing(Enum):
    """How a subsampling may be moved across a node."""

    EXACT = "exact"
    STATISTICS = "statistics"
    NEVER = "never"


ACTIVATIONS = [
    "CELU",
    "ELU",
    "GELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "RReLU",
    "SELU",
    "Sigmoid",
    "SiLU",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]
EXACT_MODULES: tuple[type[nn.Module], ...] = (
    batchnorm._BatchNorm,
    nn.LocalResponseNorm,
    nn.Identity,
    dropout._DropoutNd,
    *(getattr(activation, name) for name in ACTIVATIONS),
)
STATISTICS_MODULES: tuple[type[nn.Module], ...] = (nn.GroupNorm, instancenorm._InstanceNorm)

# Functions, tensor methods and aten operators go by the same names.
UNARY = frozenset(
    [
        "_to_copy",
        "abs",
        "abs_",
        "alpha_dropout",
        "bfloat16",
        "celu",
        "celu_",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_max",
        "clip",
        "clone",
        "contiguous",
        "detach",
        "double",
        "dropout",
        "dropout_",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "elu",
        "elu_",
        "erf",
        "exp",
        "feature_alpha_dropout",
        "feature_dropout",
        "float",
        "gelu",
        "half",
        "hardshrink",
        "hardsigmoid",
        "hardsigmoid_",
        "hardswish",
        "hardswish_",
        "hardtanh",
        "hardtanh_",
        "leaky_relu",
        "leaky_relu_",
        "log1p",
        "logsigmoid",
        "log_sigmoid",
        "mish",
        "mish_",
        "neg",
        "relu",
        "relu6",
        "relu6_",
        "relu_",
        "rrelu",
        "rsqrt",
        "selu",
        "selu_",
        "sigmoid",
        "sigmoid_",
        "sign",
        "silu",
        "silu_",
        "softplus",
        "softshrink",
        "softsign",
        "sqrt",
        "square",
        "tanh",
        "tanh_",
        "tanhshrink",
        "threshold",
        "threshold_",
        "to",
    ]
)
BINARY = frozenset(
    [
        "add",
        "add_",
        "sub",
        "sub_",
        "subtract",
        "mul",
        "mul_",
        "multiply",
        "div",
        "div_",
        "divide",
        "true_divide",
        "pow",
        "maximum",
        "minimum",
        "type_as",
    ]
)
# Their further arguments are per channel whatever their rank.
PER_CHANNEL = frozenset({"batch_norm", "cudnn_batch_norm", "native_batch_norm", "prelu"})
STATISTICS = frozenset({"group_norm", "instance_norm"})
OPERATORS = frozenset(
    {operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul}
    | {operator.truediv, operator.itruediv, operator.pow, operator.ipow, operator.neg}
)


def _functions(names: Iterable[str]) -> dict[Callable[..., Any], str]:
    return {getattr(owner, n): n for n in names for owner in (torch, F) if hasattr(owner, n)}


FUNCTIONS = _functions(UNARY | BINARY | PER_CHANNEL | STATISTICS) | dict.fromkeys(OPERATORS, "add")


def operator_name(node: fx.Node) -> str:
    """The plain name of a position-wise function, method or aten operator; empty for all else."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        in_aten = node.target.namespace == "aten"
        return str(node.target.overloadpacket.__name__) if in_aten else ""
    return FUNCTIONS.get(node.target, "")  # type: ignore[arg-type]


def crossing(node: fx.Node, source: fx.Node, traced: TracedModule, axes: int) -> Crossing:
    """Whether a subsampling of `source`, an argument of `node`, may be moved behind `node`."""
    if node.op == "call_module":
        return _module_crossing(traced.get_submodule(str(node.target)), node)
    name = operator_name(node)
    others = [a for a in (*node.args, *node.kwargs.values()) if a is not source]
    if name in PER_CHANNEL | STATISTICS:
        constant = all(not isinstance(a, fx.Node) or constant_shape(a, traced) is not None for a in others)
        if not constant or not node.args or node.args[0] is not source:
            return Crossing.NEVER
        return Crossing.EXACT if name in PER_CHANNEL else Crossing.STATISTICS
    if name in UNARY | BINARY and all(_is_per_channel(a, traced, axes) for a in others):
        return Crossing.EXACT
    return Crossing.NEVER


def _module_crossing(module: nn.Module, node: fx.Node) -> Crossing:
    if len(node.args) + len(node.kwargs) != 1:
        return Crossing.NEVER
    if isinstance(module, STATISTICS_MODULES + statistics_classes()):
        return Crossing.STATISTICS
    if isinstance(module, EXACT_MODULES + exact_classes()):
        return Crossing.EXACT
    return Crossing.NEVER


def _is_per_channel(value: Any, traced: TracedModule, axes: int) -> bool:
    """Whether an operand is the same at every position: a plain value, or a parameter of spatial extent 1."""
    if not isinstance(value, fx.Node):
        return not isinstance(value, torch.Tensor) or value.numel() == 1
    shape = constant_shape(value, traced)
    return shape is not None and len(shape) <= axes + 2 and all(extent == 1 for extent in shape[-axes:])
