"""A node of an ONNX graph as it is mirrored: by a call of PyTorch on the nodes of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from blurify.onnx.scopes import Scope, attribute, numbers

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Op:
    """A node with its inputs as nodes of the mirrored graph, None where one is left out, and the rank of each."""

    node: Any
    scope: Scope
    inputs: tuple[fx.Node | None, ...]
    ranks: tuple[int | None, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return attribute(self.node, name, default)

    def numbers(self, position: int, name: str = "") -> list[Any] | None:
        """Return the numbers of a constant input, or of the attribute that was there before it was an input."""
        return numbers(self.node, self.scope, position, name)

    def has(self, position: int) -> bool:
        """Return whether an input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None


def opaque(*inputs: Any) -> Any:
    """Stand for an operator of which nothing is known."""


Mirror = Callable[[Op], "Call | None"]


def plain(function: Callable[..., Any]) -> Mirror:
    """Mirror an operator by a function of the same inputs."""
    return lambda op: (function, op.inputs)


def first(function: Callable[..., Any]) -> Mirror:
    """Mirror an operator by a function of its first input, where the others are constants."""
    return lambda op: (function, op.inputs[:1]) if all(map(is_constant, op.inputs[1:])) else None


def is_constant(node: fx.Node | None) -> bool:
    """Return whether an input is left out, or is a tensor of the file."""
    return node is None or node.op == "get_attr"


TORCH_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.int16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.int32,
    13: torch.int64,
    16: torch.bfloat16,
}
