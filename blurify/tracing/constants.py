"""What a node that only reads parameters and buffers stands for."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

RESHAPES = frozenset({"view", "reshape"})
# What people do to a stored filter before they convolve with it; none of it changes a channel's taps.
SPREADS = frozenset({"expand", "repeat", "to", "type_as", "clone", "contiguous", "detach", "_to_copy"})


def constant_tensor(node: object, root: nn.Module) -> Tensor | None:
    """The parameter or buffer that a node reads, seen through spreading over channels; None for all else."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(root)
        return value if isinstance(value, Tensor) else None
    if node.op in ("call_method", "call_function") and node.args and operator_name(node) in SPREADS:
        return constant_tensor(node.args[0], root)
    return None


def operator_name(node: fx.Node) -> str:
    """The name of the method or operator that a node calls, whatever its overload."""
    return str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))


def constant_shape(node: fx.Node, root: nn.Module) -> tuple[int, ...] | None:
    """The shape of a parameter or buffer, seen through written reshapes and new axes; None for all else."""
    if node.op == "get_attr":
        value = constant_tensor(node, root)
        return None if value is None else tuple(value.shape)
    source = node.args[0] if node.args else None
    inner = constant_shape(source, root) if isinstance(source, fx.Node) else None
    if inner is None or node.op not in ("call_method", "call_function"):
        return None
    name = operator_name(node)
    if name in RESHAPES:
        sizes: Any = node.args[1:] if len(node.args) > 2 else node.args[1]
        written = isinstance(sizes, (tuple, list)) and all(isinstance(size, int) for size in sizes)
        return tuple(sizes) if written else None
    if name == "unsqueeze" and len(node.args) == 2 and isinstance(node.args[1], int):
        at = node.args[1] % (len(inner) + 1)
        return (*inner[:at], 1, *inner[at:])
    if node.target is operator.getitem:
        return _with_new_axes(inner, node.args[1])
    return None


def _with_new_axes(shape: tuple[int, ...], index: Any) -> tuple[int, ...] | None:
    """The shape after `x[:, None, None]` or `x[None, ...]`; None for an index that picks anything out."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is not None and part is not Ellipsis and part != slice(None) for part in parts):
        return None
    kept, made = list(shape), []
    # What an Ellipsis, or the end of the index, stands for: all dimensions that no slice names.
    rest = len(shape) - sum(part == slice(None) for part in parts)
    for part in parts if Ellipsis in parts else (*parts, Ellipsis):
        if part is None:
            made.append(1)
        else:
            count = rest if part is Ellipsis else 1
            made += kept[:count]
            del kept[:count]
    return tuple(made)
