"""Graphs as plain picklable values: their nodes in order, functions by where they are imported from.

A stable, public path: pickled converted models name its classes.
"""

from __future__ import annotations

import importlib
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import Node, map_arg

# Of a node: its path; of one that the rewrite made, the sites that it blurs, and the path of the node that has their
# size, where it is another; of one in a chain that large batches pass in parts, which chain.
KEPT_META = ("path", "blurs", "gives", "part")


@dataclass(frozen=True)
class NodeRef:
    """Stands for a node in a pickled argument."""

    name: str


@dataclass(frozen=True)
class FunctionRef:
    """Stands for a function that is found by importing it."""

    module: str
    name: str

    def resolve(self) -> Any:
        """Import the function."""
        target: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            target = getattr(target, part)
        return target


def encode_graph(graph: fx.Graph) -> dict[str, Any]:
    """Turn a graph into plain picklable values, its nodes in order."""
    nodes = [
        (
            node.op,
            node.name,
            _encode_target(node),
            _encode_args(node.args),
            _encode_args(node.kwargs),
            node.type,
            {key: node.meta[key] for key in KEPT_META if key in node.meta},
        )
        for node in graph.nodes
    ]
    plain = type(graph._codegen) is fx.graph.CodeGen
    return {"nodes": nodes, "codegen": None if plain else graph._codegen}


def decode_graph(encoded: dict[str, Any]) -> fx.Graph:
    """Make the graph again from what `encode_graph` returned."""
    graph = fx.Graph()
    if encoded["codegen"] is not None:
        graph.set_codegen(encoded["codegen"])
    by_name: dict[str, Node] = {}
    for op, name, target, args, kwargs, kind, meta in encoded["nodes"]:
        target = target.resolve() if isinstance(target, FunctionRef) else target
        node = graph.create_node(op, target, _decode(args, by_name), _decode(kwargs, by_name), name, kind)
        node.meta.update(meta)
        by_name[name] = node
    return graph


def _encode_target(node: Node) -> Any:
    target = node.target
    if isinstance(target, str):
        return target
    for module, name in _spellings(target):
        reference = FunctionRef(module, name)
        try:
            if reference.resolve() is target:
                return reference
        except (ImportError, AttributeError):
            continue
    raise pickle.PicklingError(
        f"The function {target!r} at node {node.name!r} cannot be found by importing it, so a model that calls it "
        "cannot be pickled; define it at the top level of a module."
    )


def _spellings(target: Any) -> list[tuple[str, str]]:
    module = getattr(target, "__module__", None)
    names = [getattr(target, "__qualname__", None), getattr(target, "__name__", None)]
    homes = [module, "torch", "torch.nn.functional", "operator", "torch._C._nn", "math", "builtins"]
    found = [(home, name) for name in names if name for home in homes if home]
    qualified = str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        found.insert(0, ("torch", f"ops.higher_order.{target.name()}"))  # type: ignore[no-untyped-call]
    elif type(target).__module__ == "torch._ops":
        found.insert(0, ("torch", f"ops.{qualified}"))
    return found


def _encode_args(args: Any) -> Any:
    to_reference: Any = lambda node: NodeRef(node.name)  # noqa: E731
    return map_arg(args, to_reference)


def _decode(args: Any, by_name: dict[str, Node]) -> Any:
    if isinstance(args, NodeRef):
        return by_name[args.name]
    if isinstance(args, slice):
        return slice(*(_decode(part, by_name) for part in (args.start, args.stop, args.step)))
    if isinstance(args, tuple) and hasattr(args, "_fields"):
        return type(args)(*(_decode(part, by_name) for part in args))
    if isinstance(args, (tuple, list)):
        kind = tuple if isinstance(args, tuple) else list
        return kind(_decode(part, by_name) for part in args)
    if isinstance(args, dict):
        return {key: _decode(value, by_name) for key, value in args.items()}
    return args
