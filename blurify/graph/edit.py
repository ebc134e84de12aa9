"""Edit a graph and the module tree that it calls."""

from __future__ import annotations

import copy
import operator
from typing import TypeVar

from torch import fx, nn

from blurify.graph.module import TracedModule

M = TypeVar("M", bound=nn.Module)


def holder_of(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds what a dotted path names, and its name there; make bare containers on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    return root, name


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path."""
    holder, name = holder_of(root, path)
    module.training = holder.training
    holder.add_module(name, module)


def shallow_copy(module: M) -> M:
    """Return a module with attributes and registries of its own that shares parameters, buffers and children."""
    # Not `copy.copy`, which parametrized modules refuse.
    twin = type(module).__new__(type(module))
    for key, value in module.__dict__.items():
        twin.__dict__[key] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return twin


def callers(traced: TracedModule) -> dict[str, set[fx.Node]]:
    """Return, for every module path, the nodes that call it."""
    calls: dict[str, set[fx.Node]] = {}
    for graph in traced.graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), set()).add(node)
    return calls


def insert_after(landing: fx.Node, path: str, only: fx.Node | None = None) -> fx.Node:
    """Let everything that read `landing`, or `only` one node, read the module at `path` called on it."""
    with landing.graph.inserting_after(landing):
        blur = landing.graph.call_module(path, (landing,))
    blur.meta["path"] = path
    landing.replace_all_uses_with(blur, delete_user_cb=lambda user: user is only if only else user is not blur)
    return blur


def is_first(node: fx.Node) -> bool:
    """Return whether a node takes the first of a pair, which reductions name `values`."""
    return (node.target, node.args[1:]) in ((operator.getitem, (0,)), (getattr, ("values",)))


def reads_only_the_first(node: fx.Node) -> bool:
    """Return whether of a call that returns a pair nothing but the first is used, though the second may be unpacked."""
    return all(is_first(user) or (user.target is operator.getitem and not user.users) for user in node.users)


def unpack_first(node: fx.Node) -> None:
    """Let everything that read the first of a pair read the node itself, which now returns just that."""
    for user in list(node.users):
        if is_first(user):
            user.replace_all_uses_with(node)
        node.graph.erase_node(user)
