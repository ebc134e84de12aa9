"""Read and edit the arguments of a function call by their names, however they were passed."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx

from blurify.positions import is_first


@dataclass(frozen=True)
class Signature:
    """The spatial axes that a function works on, and its argument names in order."""

    axes: int
    names: tuple[str, ...]


def bind(node: fx.Node, signature: Signature) -> dict[str, Any]:
    """The arguments that the call gives, by name."""
    return dict(zip(signature.names, node.args, strict=False)) | dict(node.kwargs)


def set_argument(node: fx.Node, signature: Signature, name: str, value: Any) -> None:
    """Give an argument another value, in the place where it was passed."""
    position = signature.names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def are_known(*values: object) -> bool:
    """Return whether none of the values is computed when the model runs."""
    flat = [v for value in values for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return not any(isinstance(v, fx.Node) for v in flat)


def reads_only_the_first(node: fx.Node) -> bool:
    """Return whether of a call that returns a pair nothing but the first is used, though the second may be unpacked."""
    return all(is_first(user) or (user.target is operator.getitem and not user.users) for user in node.users)


def unpack_first(node: fx.Node) -> None:
    """Let everything that read the first of a pair read the node itself, which now returns just that."""
    for user in list(node.users):
        if is_first(user):
            user.replace_all_uses_with(node)
        node.graph.erase_node(user)
