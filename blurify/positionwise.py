"""Which nodes act on every position alone, so that subsampling commutes with them (law 3 of the rewrite).

`EXACT` nodes commute exactly. `STATISTICS` nodes (GroupNorm, InstanceNorm) act on every position alike, by statistics
over all positions, which subsampling changes a little. Parameters with spatial extent are never position-wise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import activation as act
from torch.nn.modules import batchnorm, dropout, instancenorm

from blurify.graph_module import TracedModule
from blurify.tracing.leaves import exact_classes, statistics_classes


class Crossing(Enum):
    """How a subsampling may be moved across a node."""

    EXACT = "exact"
    STATISTICS = "statistics"
    NEVER = "never"


EXACT_MODULES: tuple[type[nn.Module], ...] = (
    batchnorm._BatchNorm,
    nn.LocalResponseNorm,
    nn.Identity,
    dropout._DropoutNd,
    *(
        getattr(act, name)
        for name in [
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
    ),
)
STATISTICS_MODULES: tuple[type[nn.Module], ...] = (nn.GroupNorm, instancenorm._InstanceNorm)


def _named(owners: tuple[Any, ...], names: str) -> frozenset[Callable[..., Any]]:
    return frozenset(getattr(owner, name) for name in names.split() for owner in owners if hasattr(owner, name))


UNARY_FUNCTIONS = _named(
    (torch, F),
    "abs alpha_dropout celu celu_ clamp clamp_ clip clone contiguous dropout dropout1d dropout2d dropout3d elu "
    "elu_ erf exp "
    "feature_alpha_dropout gelu hardshrink hardsigmoid hardswish hardtanh hardtanh_ leaky_relu leaky_relu_ log1p "
    "logsigmoid mish neg relu relu6 relu_ rrelu rsqrt selu selu_ sigmoid sigmoid_ sign silu softplus "
    "softshrink softsign "
    "sqrt square tanh tanh_ tanhshrink threshold threshold_",
)
UNARY_METHODS = frozenset(
    [
        "abs",
        "bfloat16",
        "celu",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_max",
        "clone",
        "contiguous",
        "double",
        "exp",
        "float",
        "half",
        "neg",
        "relu",
        "relu_",
        "rsqrt",
        "sigmoid",
        "sigmoid_",
        "sign",
        "sqrt",
        "square",
        "tanh",
        "tanh_",
    ]
)
BINARY_FUNCTIONS = frozenset(
    {operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv}
    | _named((torch,), "add sub subtract mul multiply div divide true_divide pow maximum minimum")
    | {operator.itruediv, operator.pow}
)
BINARY_METHODS = frozenset(["add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow", "type_as"])
RESHAPES = frozenset({"view", "reshape"})


def crossing(node: fx.Node, source: fx.Node, traced: TracedModule, axes: int) -> Crossing:
    """Whether a subsampling of `source`, an argument of `node`, may be moved behind `node`."""
    if node.op == "call_module":
        return _module_crossing(traced.get_submodule(str(node.target)), node)
    if node.op == "call_function":
        unary, binary = node.target in UNARY_FUNCTIONS, node.target in BINARY_FUNCTIONS
    elif node.op == "call_method":
        unary, binary = node.target in UNARY_METHODS, node.target in BINARY_METHODS
    else:
        return Crossing.NEVER
    others = [a for a in (*node.args, *node.kwargs.values()) if a is not source]
    same_twice = len(node.args) + len(node.kwargs) - len(others) > 1
    if unary or binary:
        harmless = all(_is_per_channel(a, traced, axes) for a in others)
        return Crossing.EXACT if harmless and not (unary and same_twice) else Crossing.NEVER
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
    return shape is not None and all(extent == 1 for extent in shape[-axes:])


def constant_shape(node: fx.Node, traced: TracedModule) -> tuple[int, ...] | None:
    """The shape of a parameter or buffer, seen through `view`/`reshape` to written sizes; None for all else."""
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(traced)
        return tuple(value.shape) if isinstance(value, torch.Tensor) else None
    if node.op == "call_method" and node.target in RESHAPES and isinstance(node.args[0], fx.Node):
        sizes = node.args[1:] if len(node.args) > 2 else node.args[1]
        if constant_shape(node.args[0], traced) is not None and isinstance(sizes, (tuple, list)):
            return tuple(sizes) if all(isinstance(size, int) for size in sizes) else None
    return None
