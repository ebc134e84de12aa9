"""Leave the caller's model and random state as found, whatever its `forward` and `train` do to it meanwhile."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import TraceError
from blurify.graph.module import TracedModule

# What a model may keep things in, of those that can be emptied and filled again as they were.
KEEPERS = frozenset({dict, defaultdict, OrderedDict, list, set})
# Attributes that are no place to keep things in.
NO_HOLDERS = (nn.Module, Tensor, type, ModuleType)
# What most attributes are: none of these has attributes of its own, which saves the question.
SCALARS = frozenset({bool, int, float, str, type(None)})
BARE = frozenset({dict, defaultdict, list, set})


@dataclass(frozen=True)
class Attributes:
    """The attributes of one module, and what is in each container among them."""

    module: nn.Module
    values: dict[str, Any]
    contents: tuple[tuple[Any, Any], ...]
    # Most containers are the tables of hooks that every module has: these are not worth a copy.
    empty: tuple[Any, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Attributes:
        """Return the attributes as they are."""
        values = dict(module.__dict__)
        some = [value for value in values.values() if type(value) not in SCALARS]
        held = [vars(value) for value in some if type(value) not in BARE and _holds(value)]
        containers = [value for value in some + held if type(value) in KEEPERS]
        filled = [container for container in containers if container]
        return cls(module, values, tuple(_contents(filled)), tuple(c for c in containers if not c))

    def restore(self) -> None:
        """Make them so again."""
        if isinstance(self.module, TracedModule):
            self.module.training = self.values["training"]
            self.module.follow_mode()
        self.module.__dict__.clear()
        self.module.__dict__.update(self.values)
        for container in filter(None, self.empty):
            container.clear()
        for container, content in self.contents:
            if not (container or content) or _same_items(container, content):
                continue
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)


def _holds(value: Any) -> bool:
    """Return whether it is an object of somebody's own class, such as one that collects what hooks are shown."""
    return isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, NO_HOLDERS)


def _same_items(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, set):
        return bool(one == other)
    pairs = (one.items(), other.items()) if isinstance(one, dict) else (enumerate(one), enumerate(other))
    return all(a[0] == b[0] and a[1] is b[1] for a, b in zip(*pairs, strict=True))


def _contents(containers: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    waiting = list(containers)
    seen: set[int] = set()
    while waiting:
        container = waiting.pop()
        if id(container) not in seen:
            seen.add(id(container))
            yield container, container.copy()
            inside = container.values() if isinstance(container, dict) else container
            waiting.extend(value for value in inside if type(value) in KEEPERS)


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Restore every module's attributes and mode and the random state, whatever happens inside."""
    found = [Attributes.of(module) for module in model.modules()]
    values = switched_values(model)
    devices = list({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices), same_chance():
            yield
    finally:
        for attributes in found:
            attributes.restore()
        with torch.no_grad():
            for tensor, value in values.values():
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)


@contextmanager
def same_chance() -> Iterator[None]:
    """Restore the random state of Python and of NumPy, where that is loaded."""
    numpy: Any = sys.modules.get("numpy")
    state, numpys = random.getstate(), numpy and numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpys)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into `.eval()` without gradients, and leave it as found."""
    with as_found(model), torch.no_grad():
        # An exported module has one mode, and refuses to be asked.
        with suppress(NotImplementedError):
            model.eval()
        yield


def switched_values(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what a module's own `train` or `eval` might change: parameters and buffers by name, with a copy."""
    return {
        f"{path}.{name}".lstrip("."): (tensor, tensor.detach().clone())
        for path, module in model.named_modules()
        if _switches_by_itself(module)
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
        if not tensor.is_meta
    }


def _switches_by_itself(module: nn.Module) -> bool:
    kind = type(module)
    own = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return own and not isinstance(module, TracedModule)


def check_weights_stay(model: nn.Module) -> None:
    """Refuse a model whose `.train()` and `.eval()` change its weights: a graph cannot do that after it is recorded."""
    if not any(map(_switches_by_itself, model.modules())):
        return
    with as_found(model):
        model.train()
        training = switched_values(model)
        model.eval()
        evaluating = switched_values(model)
    for name, (_, value) in training.items():
        other = evaluating.get(name, (None, value))[1]
        if not torch.equal(value.nan_to_num(), other.nan_to_num()):
            raise TraceError(
                f"{type(model).__name__} cannot be traced: its .train() and .eval() change the weight {name!r} itself, "
                "as layers with adapters do, which a graph cannot; merge the adapters for good, then convert."
            )


def flags_against(model: nn.Module, mode: bool) -> frozenset[str]:
    """Paths whose flag is not the given mode."""
    return frozenset(name for name, module in model.named_modules() if module.training is not mode and name)
