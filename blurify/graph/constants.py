"""Evaluate nodes that read only parameters and buffers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.graph.paths import name_of

# What people do to a stored filter before they convolve with it; none of it changes a channel's taps.
SPREADS = frozenset({"expand", "repeat", "to", "type_as", "clone", "contiguous", "detach", "_to_copy"})


def constant_tensor(node: object, root: nn.Module) -> Tensor | None:
    """Return the parameter or buffer that a node reads, seen through spreading over channels; None for all else."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(root)
        return value if isinstance(value, Tensor) else None
    if node.args and name_of(node) in SPREADS:
        return constant_tensor(node.args[0], root)
    return None


# How many calls what a graph makes of a parameter may go through, such as `(1 / (b.exp() + 1e-9))[None, :, None]`.
DEEPEST = 12


def constant_shape(node: fx.Node, root: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of what is computed from parameters, buffers and numbers alone; None for all else."""
    try:
        value = _without_values(node, root, DEEPEST)
    except Exception:  # what cannot be computed so is no constant
        return None
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _without_values(node: fx.Node, root: nn.Module, deepest: int) -> Any:
    """Return the node's value on the meta device."""
    if node.op == "get_attr":
        return torch.empty_like(operator.attrgetter(str(node.target))(root), device="meta")
    if node.op not in ("call_method", "call_function") or deepest == 0:
        raise LookupError(node)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: _without_values(arg, root, deepest - 1))
    if "device" in kwargs:
        kwargs = kwargs | {"device": "meta"}
    with torch.device("meta"):
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if not str(getattr(node.target, "__module__", "torch")).startswith(("torch", "_operator")):
            raise LookupError(node)
        call: Any = node.target
        return call(*args, **kwargs)
