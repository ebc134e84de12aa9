"""Answer what a recorded value is, by running what it is made of on fake tensors whose sizes are symbols.

The rank of a value and its channels are known whatever the input; an answer that needs the batch or a spatial size is
the example's, and is said to be.
"""

from __future__ import annotations

import inspect
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

from blurify.tracing.inputs import Inputs, example_for

# Up to so many, the last axis is taken for the channels of an image whose channels come last.
MOST_CHANNELS_LAST = 4


@dataclass(frozen=True)
class Known:
    """A value, and whether it holds for inputs of any size."""

    value: Any
    always: bool


class Answers:
    """Values of the nodes of one recording, each found when first asked for."""

    def __init__(self, model: nn.Module, inputs: Inputs | None) -> None:
        self.model = model
        self.inputs = inputs
        self.known: dict[Node, Known | None] = {}
        self._mode: FakeTensorMode | None = None
        self._arguments: dict[str, Any] = {}

    def of(self, node: Node) -> Known | None:
        """Return what is known of a node's value; None where it cannot be computed without the input's values."""
        for each in _unknown_sources(node, self.known):
            self.known[each] = self._computed(each)
        return self.known[node]

    def truth(self, node: Node) -> Known | None:
        """Return the truth of a node's value."""
        known = self.of(node)
        if known is None:
            return None
        if isinstance(known.value, (torch.SymBool, torch.SymInt, torch.SymFloat)):
            condition = known.value if isinstance(known.value, torch.SymBool) else known.value != 0
            return self._static(condition) or self._of_example(condition)
        return None if isinstance(known.value, Tensor) else Known(bool(known.value), known.always)

    def _of_example(self, condition: Any) -> Known | None:
        # What a tensor holds has no value here.
        hint = condition.node.hint if condition.node.has_hint() else None
        return None if hint is None else Known(bool(hint), always=False)

    def number(self, node: Node) -> Known | None:
        """Return a node's value as a number."""
        known = self.of(node)
        if known is None or isinstance(known.value, Tensor):
            return None
        if isinstance(known.value, (torch.SymInt, torch.SymFloat)):
            fixed = known.value.node.maybe_as_int() if isinstance(known.value, torch.SymInt) else None
            if fixed is not None:
                return Known(fixed, known.always)
            return Known(known.value.node.hint, always=False) if known.value.node.has_hint() else None
        return known if isinstance(known.value, (int, float)) else None

    def length(self, node: Node) -> Known | None:
        """Return how many items a node's value has."""
        known = self.of(node)
        if known is None:
            return None
        if not isinstance(known.value, Tensor):
            return Known(len(known.value), known.always) if hasattr(known.value, "__len__") else None
        size: Any = known.value.shape[0]
        if isinstance(size, torch.SymInt):
            fixed = size.node.maybe_as_int()
            return Known(size.node.hint, always=False) if fixed is None else Known(fixed, known.always)
        return Known(int(size), known.always)

    def of_constants(self, node: Node) -> Any:
        """Return a node's value where the input has no part in it, drawn anew if it is random; else None."""
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

    def _static(self, condition: Any) -> Known | None:
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        if statically_known_true(condition):
            return Known(True, always=True)
        return Known(False, always=True) if statically_known_true(torch.sym_not(condition)) else None

    def _computed(self, node: Node) -> Known | None:
        sources = [self.known[source] for source in node.all_input_nodes]
        if None in sources or node.op == "output":
            return None
        try:
            with self._running() as mode:
                shape_env: Any = mode.shape_env
                guards = len(shape_env.guards)
                value = self._run(node, mode)
                # What a comparison of sizes gives without a symbol in it was decided by the example's.
                chosen = len(shape_env.guards) > guards and not isinstance(value, Tensor)
        except Exception:
            return None
        if node.op == "placeholder":
            chosen = not all(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        return Known(value, all(s.always for s in sources if s) and not chosen)

    def _run(self, node: Node, mode: FakeTensorMode) -> Any:
        if node.op == "placeholder":
            return self._arguments[str(node.target)]
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _value(self.known[source]))
        if node.op == "get_attr":
            value = at_path(self.model, str(node.target))
            return mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value
        if node.op == "call_module" and isinstance(at_path(self.model, str(node.target)), batchnorm._BatchNorm):
            # It gives the size that it is fed, and fake tensors are slow to find that out.
            return torch.empty_like(args[0])
        return self._called(node, args, kwargs)

    def _called(self, node: Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        target: Any = at_path(self.model, str(node.target)) if isinstance(node.target, str) else node.target
        # What a constant is made of must not be written to.
        return target.detach().clone() if node.op == "get_attr" else target(*args, **kwargs)

    @contextmanager
    def _as_if_unrecorded(self) -> Iterator[None]:
        with torch._C.DisableTorchFunction(), _maybe_revert_all_patches(), torch.no_grad():
            yield

    @contextmanager
    def _running(self) -> Iterator[FakeTensorMode]:
        with self._as_if_unrecorded():
            if self._mode is None:
                from torch.fx.experimental.symbolic_shapes import ShapeEnv

                self._mode = FakeTensorMode(
                    allow_non_fake_inputs=True, shape_env=ShapeEnv(duck_shape=False, specialize_zero_one=False)
                )
                self._arguments = _arguments(self.model, self.inputs, self._mode)
            with self._mode:
                yield self._mode


def _value(known: Known | None) -> Any:
    return None if known is None else known.value


def _unknown_sources(node: Node, known: Mapping[Node, Any]) -> list[Node]:
    """The node and what it is made of, as far as nothing is known of it yet, sources first."""
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


def at_path(root: nn.Module, path: str) -> Any:
    """Return what the model has at a dotted path."""
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _arguments(model: nn.Module, inputs: Inputs | None, mode: FakeTensorMode) -> dict[str, Any]:
    """A value for each argument of `forward`, fake tensors of open sizes in the place of tensors."""
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
    return {name: tree_map_only(Tensor, lambda t: _opened(t, mode), value) for name, value in flat.items()}


def _opened(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    rank = tensor.dim()
    channels = {1} if rank > 2 else set()
    if rank > 2 and tensor.shape[-1] <= MOST_CHANNELS_LAST:
        channels = {rank - 1}
    sizes = [DimDynamic.STATIC if axis in channels else DimDynamic.DYNAMIC for axis in range(rank)]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
