"""Which nodes act on every position alone, so that subsampling commutes with them (law 3 of the rewrite).

What is not known for certain is none of them: a blur too early costs quality, one too late is wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from blurify.graph.constants import constant_shape
from blurify.graph.paths import IN_PLACE
from blurify.planning.positionwise import axes, channels, elementwise
from blurify.planning.positionwise.channels import STATISTICS
from blurify.planning.positionwise.modules import equal_call
from blurify.planning.positionwise.sizes import CONSTANTS, READERS, arithmetic, constant, read_size
from blurify.planning.positionwise.values import (
    Constant,
    Map,
    Operation,
    Size,
    Value,
    canonical,
    is_canonical,
    is_free,
)

__all__ = [
    "Map",
    "Value",
    "canonical",
    "crosses",
    "is_canonical",
    "is_free",
    "is_unread",
    "operator_name",
    "position_wise",
    "takes_statistics",
]
HANDLERS: dict[str, Callable[[Operation], Value | None]] = {
    **elementwise.HANDLERS,
    **channels.HANDLERS,
    **axes.MOVES,
    **axes.JOINS,
    **dict.fromkeys(READERS, read_size),
    **dict.fromkeys(CONSTANTS, constant),
    "getitem": axes.getitem,
}
OWNERS = (torch, F, torch.special, torch.linalg, operator)
OWN_NAMES = {operator.and_: "and_", operator.or_: "or_", getattr: "getattr"}
WRITES = {*IN_PLACE, operator.setitem, operator.delitem}
Values = Mapping[fx.Node, Value]


def _functions(names: Iterable[str]) -> dict[Callable[..., Any], str]:
    found = {getattr(owner, name): name for name in names for owner in OWNERS if hasattr(owner, name)}
    return found | {function: f"{name}_" for function, name in IN_PLACE.items()} | OWN_NAMES


FUNCTIONS = _functions(HANDLERS)


def operator_name(node: fx.Node) -> str:
    """Return the plain name of a position-wise function, a method or an aten operator; empty for all else."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return ""
    if isinstance(node.target, OpOverload):
        in_aten = node.target.namespace == "aten"
        return str(node.target.overloadpacket.__name__).removeprefix("special_") if in_aten else ""
    return FUNCTIONS.get(node.target, "")  # type: ignore[arg-type]


def position_wise(node: fx.Node, values: Values, root: nn.Module) -> Value | None:
    """Return what a node gives that reads `values`, if that is at each position a function of theirs there."""
    try:
        call = call_of(node, values, root)
    except LookupError:
        return None
    if all(isinstance(values[source], Size) for source in node.all_input_nodes if source in values):
        return arithmetic(call, node)
    handler = HANDLERS.get(call.name)
    moved = call.name in axes.MOVES and not (call.args and isinstance(call.args[0], Map))
    return handler(call) if handler and call.args and not moved else None


def call_of(node: fx.Node, values: Values, root: nn.Module) -> Operation:
    """Return the node as a call on values.

    Raises:
        LookupError: it reads what is neither a value nor a constant, or is no known call.
    """
    args = tuple(_resolved(arg, values, root) for arg in node.args)
    kwargs = {name: _resolved(arg, values, root) for name, arg in node.kwargs.items()}
    subject = next((name for name in ("input", "self", "tensors") if not args and name in kwargs), None)
    if subject is not None:
        args = (kwargs.pop(subject),)
    if node.op != "call_module":
        return Operation(operator_name(node), args, kwargs)
    equal = equal_call(root.get_submodule(str(node.target)))
    if equal is None or len(args) + len(kwargs) != 1:
        raise LookupError(node)
    return Operation(equal[0], (*args, *kwargs.values(), *equal[1]), {})


def _resolved(arg: Any, values: Values, root: nn.Module) -> Any:
    if isinstance(arg, (tuple, list)):
        items = [_resolved(item, values, root) for item in arg]
        return tuple(items) if isinstance(arg, tuple) else items
    if isinstance(arg, slice):
        return slice(*(_resolved(end, values, root) for end in (arg.start, arg.stop, arg.step)))
    if isinstance(arg, Tensor):
        return Constant(tuple(arg.shape))
    if not isinstance(arg, fx.Node):
        return arg
    if arg in values:
        return values[arg]
    shape = constant_shape(arg, root)
    if shape is not None:
        return Constant(shape)
    if isinstance(arg.meta.get("val"), (int, torch.SymInt)):
        return Size()
    raise LookupError(arg)


def is_unread(node: fx.Node) -> bool:
    """Return whether a number, or an item of a sequence, is computed for nothing."""
    computes = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
    return computes and node.target not in WRITES and all(map(is_unread, node.users))


def takes_statistics(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a position-wise node is one only up to statistics over all positions."""
    if node.op == "call_module":
        equal = equal_call(root.get_submodule(str(node.target)))
        return equal is not None and equal[0] in STATISTICS
    return operator_name(node) in STATISTICS


def crosses(node: fx.Node, source: fx.Node, root: nn.Module, axes: int) -> bool:
    """Return whether a subsampling of the map that `source` gives may be moved behind `node`."""
    value = position_wise(node, {source: Map(canonical(axes))}, root)
    return isinstance(value, Map) and is_canonical(value.layout, axes)
