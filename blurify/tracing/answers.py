"""Answer what a recorded value is, by running what it is made of on fake tensors, twice.

The two runs differ in batch and spatial sizes. What is the same in both at the places where tensors are asked for their
sizes, their rank and their channels, holds for every input; all else is the example's, and is said to be.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._symbolic_trace import _maybe_revert_all_patches
from torch.fx.node import Node, map_arg
from torch.nn.modules import batchnorm
from torch.utils._pytree import tree_leaves, tree_map_only

from blurify.tracing.export import quietly
from blurify.tracing.inputs import Inputs, example_for

# Up to so many, the last axis is taken for the channels of an image whose channels come last.
MOST_CHANNELS_LAST = 4
# How much larger the second run's spatial sizes are: models like to halve their maps five times.
LARGER = 32
OF_RANK = frozenset({"dim", "ndim", "ndimension"})


@dataclass(frozen=True)
class Known:
    """A value, the same with other sizes, if that could be had, and whether it holds for inputs of any size."""

    value: Any
    other: Any = None
    always: bool = True


class Answers:
    """Values of the nodes of one recording, each found when first asked for."""

    def __init__(self, model: nn.Module, inputs: Inputs | None) -> None:
        self.model = model
        self.inputs = inputs
        self.known: dict[Node, Known | None] = {}
        self._mode: FakeTensorMode | None = None
        self._arguments: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def of(self, node: Node) -> Known | None:
        """Return what is known of a node's value; None where it cannot be computed without the input's values."""
        unknown = _unknown_sources(node, self.known)
        if unknown:
            with self._running() as mode:
                for each in unknown:
                    self.known[each] = self._computed(each, mode)
        return self.known[node]

    def truth(self, node: Node) -> Known | None:
        """Return the truth of a node's value."""
        known = self.of(node)
        if known is None or isinstance(known.value, Tensor):
            return None
        return Known(bool(known.value), always=known.always)

    def number(self, node: Node) -> Known | None:
        """Return a node's value as a number."""
        known = self.of(node)
        return known if known is not None and isinstance(known.value, (int, float)) else None

    def length(self, node: Node) -> Known | None:
        """Return how many items a node's value has."""
        known = self.of(node)
        if known is None:
            return None
        if isinstance(known.value, Tensor):
            first = known.other.shape[0] if isinstance(known.other, Tensor) else None
            return Known(int(known.value.shape[0]), always=known.value.shape[0] == first)
        # As many as a tensor's rank, or as the parts that a function takes it apart in.
        return Known(len(known.value)) if hasattr(known.value, "__len__") else None

    def of_constants(self, node: Node) -> Any:
        """Return a node's value where the input has no part in it, drawn again if it is random; else None."""
        order = _unknown_sources(node, {})
        if any(source.op == "placeholder" for source in order):
            return None
        values: dict[Node, Any] = {}
        try:
            with self._as_if_unrecorded():
                for source in order:
                    args, kwargs = map_arg((source.args, source.kwargs), values.__getitem__)
                    values[source] = self._called(source, args, kwargs)
                return values[node].item() if isinstance(values[node], Tensor) else values[node]
        except Exception:
            return None

    def _computed(self, node: Node, mode: FakeTensorMode) -> Known | None:
        sources = [self.known[source] for source in node.all_input_nodes]
        if None in sources or node.op == "output":
            return None
        try:
            value = self._run(node, mode, 0)
        except Exception:
            return None
        try:
            # Of a model that takes one size only there is no second run.
            other = None if any(s is not None and s.other is None for s in sources) else self._run(node, mode, 1)
        except Exception:
            other = None
        return Known(value, other, self._holds(node, value, other))

    def _holds(self, node: Node, value: Any, other: Any) -> bool:
        """Return whether a value that is no tensor, nor made of them, is the same for inputs of any size."""
        if node.op == "placeholder":
            return all(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            return True
        sources = [known for source in node.all_input_nodes if (known := self.known[source]) is not None]
        of_tensors = all(isinstance(source.value, Tensor) for source in sources)
        if of_tensors and sources:
            reads = str(node.args[1] if node.target is getattr else node.target)
            return reads in OF_RANK or _alike(value, other)
        if node.target is operator.getitem and isinstance(sources[0].value, tuple) and len(sources) == 1:
            return _alike(value, other)
        return all(source.always for source in sources)

    def _run(self, node: Node, mode: FakeTensorMode, run: int) -> Any:
        if node.op == "placeholder":
            return self._arguments[run][str(node.target)]
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _value(self.known[source], run))
        if node.op == "get_attr":
            value = self._held(node)
            return mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value
        if node.op == "call_module" and isinstance(self._held(node), batchnorm._BatchNorm):
            # It gives the size that it is fed, and fake tensors are slow to find that out.
            return torch.empty_like(args[0])
        return self._called(node, args, kwargs)

    def _held(self, node: Node) -> Any:
        return operator.attrgetter(str(node.target))(self.model)

    def _called(self, node: Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        target: Any = self._held(node) if isinstance(node.target, str) else node.target
        # What a constant is made of must not be written to.
        return target.detach().clone() if node.op == "get_attr" else target(*args, **kwargs)

    @contextmanager
    def _as_if_unrecorded(self) -> Iterator[None]:
        with torch._C.DisableTorchFunction(), _maybe_revert_all_patches(), torch.no_grad():
            yield

    @contextmanager
    def _running(self) -> Iterator[FakeTensorMode]:
        with self._as_if_unrecorded(), quietly():
            if self._mode is None:
                self._mode = FakeTensorMode(allow_non_fake_inputs=True)
                self._arguments = _arguments(self.model, self.inputs, self._mode)
            with self._mode:
                yield self._mode


def _alike(value: Any, other: Any) -> bool:
    return other is not None and type(value) is type(other) and bool(value == other)


def _value(known: Known | None, run: int) -> Any:
    return None if known is None else known.other if run else known.value


def _unknown_sources(node: Node, known: Mapping[Node, Any]) -> list[Node]:
    """Return the node and what it is made of, as far as nothing is known of it yet, sources first."""
    order: dict[Node, None] = {}
    waiting = [node]
    while waiting:
        current = waiting[-1]
        missing = [s for s in current.all_input_nodes if s not in known and s not in order]
        if current in known or current in order or not missing:
            waiting.pop()
            if current not in known:
                order[current] = None
        else:
            waiting.extend(missing)
    return list(order)


def _arguments(model: nn.Module, inputs: Inputs | None, mode: FakeTensorMode) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a value for each argument of `forward`, with fake tensors, and the same with larger ones."""
    given = example_for(model, batch=2) if inputs is None else inputs
    bound = inspect.signature(model.forward).bind(*given.args, **given.kwargs).arguments
    flat: dict[str, Any] = {}
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if name in bound and parameter.kind is parameter.VAR_KEYWORD:
            flat |= bound[name]
        elif name in bound and parameter.kind is parameter.VAR_POSITIONAL:
            flat |= {f"{name}_{index}": value for index, value in enumerate(bound[name])}
        elif name in bound:
            flat[name] = bound[name]
    fake = {name: tree_map_only(Tensor, mode.from_tensor, value) for name, value in flat.items()}
    with mode:
        return fake, {name: tree_map_only(Tensor, _larger, value) for name, value in fake.items()}


def _larger(tensor: Tensor) -> Tensor:
    """Return a tensor of other sizes but for the channels."""
    sizes = list(tensor.shape)
    last = len(sizes) > 2 and sizes[-1] <= MOST_CHANNELS_LAST
    channels = len(sizes) - 1 if last else 1 if len(sizes) > 2 else -1
    sizes = [s if axis == channels else s + (LARGER if axis else 1) for axis, s in enumerate(sizes)]
    return tensor.new_empty(sizes)
