"""What a node that only reads parameters and buffers stands for."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

RESHAPES = frozenset({"view", "reshape"})
# What people do to a stored filter before they convolve with it; none of it changes a channel's taps.
SPREADS = frozenset({"expand", "repeat", "to", "type_as", "clone", "contiguous", "detach"})


def constant_tensor(node: object, root: nn.Module) -> Tensor | None:
    """The parameter or buffer that a node reads, seen through spreading over channels; None for all else."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(root)
        return value if isinstance(value, Tensor) else None
    if node.op == "call_method" and node.target in SPREADS:
        return constant_tensor(node.args[0], root)
    return None


def constant_shape(node: fx.Node, root: nn.Module) -> tuple[int, ...] | None:
    """The shape of a parameter or buffer, seen through `view`/`reshape` to written sizes; None for all else."""
    if node.op == "get_attr":
        value = constant_tensor(node, root)
        return None if value is None else tuple(value.shape)
    if node.op == "call_method" and node.target in RESHAPES and isinstance(node.args[0], fx.Node):
        sizes: Any = node.args[1:] if len(node.args) > 2 else node.args[1]
        if constant_shape(node.args[0], root) is not None and isinstance(sizes, (tuple, list)):
            return tuple(sizes) if all(isinstance(size, int) for size in sizes) else None
    return None
