"""Read and edit the arguments of a function call by their names, however they were passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Signature:
    """The spatial axes that a function works on, and its argument names in order."""

    axes: int
    names: tuple[str, ...]


def bind(node: fx.Node, signature: Signature) -> dict[str, Any]:
    """Return the arguments that the call gives, by name."""
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
