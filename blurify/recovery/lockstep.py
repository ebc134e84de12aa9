"""Two networks of one graph run side by side, node by node, for as many batches as there are, within a memory budget.

Each batch is a pair of environments, the values of nodes that are read later. They stay in memory up to the budget;
the others are kept in files and are read back when it is their turn.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from blurify.graph.module import TracedModule
from blurify.graph.nodes import writes
from blurify.tracing.inputs import Inputs
from blurify.tracing.shapes import placeholder_values


@dataclass
class Progress:
    """How far a graph has run: the number of nodes, and the values that are read later."""

    done: int
    values: dict[str, Any]

    def copied(self) -> Progress:
        """The same with tensors of its own, since running on may write in place; they share memory where these do."""
        return Progress(self.done, copy.deepcopy(self.values))


class Stepper:
    """Runs the eval graph of a network up to a node, and on from there."""

    def __init__(self, traced: TracedModule) -> None:
        self.module = traced
        self.graph = traced.eval_graph
        self.nodes = list(self.graph.nodes)
        self.numbers = {node.name: number for number, node in enumerate(self.nodes)}
        self.by_name = {node.name: node for node in self.nodes}
        self._interpreter = fx.Interpreter(traced, garbage_collect_values=False, graph=self.graph)
        self._last_read = {
            source.name: number for number, node in enumerate(self.nodes) for source in node.all_input_nodes
        }

    def start(self, pictures: Tensor) -> Progress:
        """Nothing done but the inputs."""
        names = [node.name for node in self.nodes if node.op == "placeholder"]
        return Progress(0, dict(zip(names, placeholder_values(self.graph, Inputs((pictures,))), strict=True)))

    def advance(self, progress: Progress, name: str, through: bool = False) -> Any:
        """Run all nodes before the named one, or through it, and then return its value."""
        stop = self.numbers[name] + through
        env = self._interpreter.env = {self.by_name[key]: value for key, value in progress.values.items()}
        for number in range(progress.done, stop):
            node = self.nodes[number]
            if node.op not in ("placeholder", "output"):
                env[node] = self._interpreter.run_node(node)
        progress.done = max(progress.done, stop)
        values = {node.name: value for node, value in env.items()}
        result = values.get(name)
        progress.values = {key: value for key, value in values.items() if self._last_read.get(key, -1) >= stop}
        self._interpreter.env = {}
        return result

    def look(self, progress: Progress, name: str, reader: str) -> Any:
        """Return the value of the named node as its reader finds it, for which nothing is done that would stay."""
        between = self.nodes[progress.done : self.numbers[reader]]
        if name in progress.values and not any(writes(node, self.module) for node in between):
            return progress.values[name]
        there = progress.copied()
        self.advance(there, reader)
        return there.values[name]

    def leading_to(self, name: str) -> set[str]:
        """Return the names of all nodes that the named one depends on, and its own."""
        found: set[str] = set()
        waiting = [self.by_name[name]]
        while waiting:
            node = waiting.pop()
            if node.name not in found:
                found.add(node.name)
                waiting += node.all_input_nodes
        return found


class Batches:
    """The batches' progress through both networks, in memory up to `budget` bytes and beyond that in files."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: list[tuple[Progress, ...] | Path] = []
        self._sizes: list[int] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def append(self, progresses: tuple[Progress, ...]) -> None:
        """Keep another batch."""
        self._kept.append(progresses)
        self._sizes.append(0)
        self._put(len(self._kept) - 1, progresses)

    def __iter__(self) -> Iterator[tuple[Progress, ...]]:
        """Yield every batch in turn; what was done to it is kept when the next is asked for."""
        for number in range(len(self._kept)):
            progresses = self._take(number)
            yield progresses
            self._put(number, progresses)

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def _take(self, number: int) -> tuple[Progress, ...]:
        kept = self._kept[number]
        if not isinstance(kept, Path):
            return kept
        return tuple(Progress(*stored) for stored in torch.load(kept, weights_only=True))

    def _put(self, number: int, progresses: tuple[Progress, ...]) -> None:
        size = sum(map(held_bytes, progresses))
        others = sum(self._sizes) - self._sizes[number]
        if others + size <= self.budget:
            self._sizes[number], self._kept[number] = size, progresses
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="blurify-")
        path = Path(self._folder.name, f"{number}.pt")
        # Values that share memory go on sharing it, so that writing in place does what it did.
        torch.save([(progress.done, progress.values) for progress in progresses], path)
        self._sizes[number], self._kept[number] = 0, path


def held_bytes(progress: Progress) -> int:
    """How much memory the values take, what several share counted once."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(progress.values) if isinstance(leaf, Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
