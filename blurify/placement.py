"""Where the blur goes: down through position-wise, single-consumer nodes; and which convs are stems."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx

from blurify.graph_module import TracedModule
from blurify.positionwise import Crossing, crossing


@dataclass(frozen=True)
class Landing:
    """The node after which the blur goes, and the paths of the statistics-taking norms on the way."""

    node: fx.Node
    statistics: tuple[str, ...] = ()


def landing(site: fx.Node, traced: TracedModule, axes: int) -> Landing:
    """Follow the only consumer as long as it acts on every position alone.

    So it stops before anything that mixes positions, joins branches, fans out or reads a size: each of those is a
    second
    consumer, or no position-wise node.
    """
    node, statistics = site, []
    while len(node.users) == 1:
        consumer = next(iter(node.users))
        way = crossing(consumer, node, traced, axes)
        if way is Crossing.NEVER:
            break
        if way is Crossing.STATISTICS:
            statistics.append(consumer.meta["path"])
        node = consumer
    return Landing(node, tuple(statistics))


# What preprocessing inside a model does to channels before its stem: picked apart, scaled, put together again.
CHANNEL_FUNCTIONS = frozenset({operator.getitem, torch.unsqueeze, torch.cat, torch.stack})


def is_stem(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Whether the conv is fed by the model's input through position-wise ops alone."""
    source = site.args[0] if site.args else next(iter(site.kwargs.values()), None)
    seen: set[fx.Node] = set()
    waiting = [source]
    reached_input = False
    while waiting:
        node = waiting.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder":
            reached_input = True
        elif node.op != "get_attr":
            if not _keeps_positions(node, traced, axes):
                return False
            waiting.extend(node.all_input_nodes)
    return reached_input


TOKEN_RESHAPES = frozenset({"view", "reshape", "unflatten"})
TRANSPOSITIONS = frozenset({"transpose", "permute", "movedim"})


def is_fed_by_tokens(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Whether the conv reads a map that was made of a sequence of tokens."""
    node = site.args[0] if site.args else None
    while isinstance(node, fx.Node):
        if node.op == "call_method" and node.target in TOKEN_RESHAPES:
            return True
        sources = node.all_input_nodes
        # Transposing alone makes no map: channels-last networks do it around every norm.
        transposed = node.op == "call_method" and node.target in TRANSPOSITIONS
        if len(sources) != 1 or (not transposed and crossing(node, sources[0], traced, axes) is Crossing.NEVER):
            return False
        node = sources[0]
    return False


def _keeps_positions(node: fx.Node, traced: TracedModule, axes: int) -> bool:
    if node.op == "call_function" and node.target in CHANNEL_FUNCTIONS:
        return True
    return any(crossing(node, source, traced, axes) is not Crossing.NEVER for source in node.all_input_nodes)
