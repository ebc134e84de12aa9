"""Find what a copy of a model would still run of the original.

`copy.deepcopy` copies modules and bound methods, and takes functions as they are: one that was put in the place of a
method may hold the original's modules in its closure, and these would run unconverted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import nn

# The attributes that calling a module looks up.
CALLED = ("forward", "_call_impl", "_slow_forward", "__call__")


def borrowing(twin: nn.Module, original: nn.Module) -> str | None:
    """Return the path of a module of the copy whose call would run a module of the original; None without one."""
    foreign = {id(module) for module in original.modules()} - {id(module) for module in twin.modules()}
    for path, module in twin.named_modules():
        if any(id(held) in foreign for held in held_modules(replaced_methods(module))):
            return path or type(twin).__name__
    return None


def replaced_methods(module: nn.Module) -> Iterator[Any]:
    """Give what a call of the module runs besides methods of `torch.nn`."""
    for name in CALLED:
        if name in module.__dict__:
            yield module.__dict__[name]
        yield from (vars(kind)[name] for kind in type(module).__mro__ if kind is not nn.Module and name in vars(kind))


def held_modules(values: Iterable[Any]) -> Iterator[nn.Module]:
    """Give every module that the values, functions among them, hold."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
        else:
            waiting.extend(contents(value))


def contents(value: Any) -> list[Any]:
    """Return what a function or a container holds."""
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if is_filled(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else []


def is_filled(cell: Any) -> bool:
    """Return whether the cell of a closure has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
