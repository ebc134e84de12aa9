"""Inspect unpickled objects before any of them is used.

No allowed class runs the file's code, but a pickle sets attributes as it likes. An attribute in the place of a method
(`forward`, `train`, `state_dict`), or a hook, makes a model do something else than its class says; a tree that is
not one of modules and tensors, or holds itself, makes everything fail later. Ordinary models have none of these.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from blurify.errors import FileError, UnsafeFileError, quoted

# What is put there by torch itself, and called in place of `forward`, though the class has no method of the name.
_CALLED = ("_compiled_call_impl",)
# A method that nothing here calls; ultralytics keeps the name of a layer's class there.
_TYPE = "type"
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))

_DEEPEST = 100  # modules inside one another; Python calls no more than a thousand functions so
_LONGEST = 200  # characters of a place in a message

_REGISTRIES = {"_modules": nn.Module, "_parameters": Tensor, "_buffers": Tensor}

# Nothing in these comes out of the file, or it is a traced graph, which only the user's word lets in.
_PLAIN = (str, bytes, int, float, complex, type(None))
_OPAQUE = (*_PLAIN, type, FunctionType, BuiltinFunctionType, ModuleType, Enum, fx.Graph, fx.Node)


def check_instances(content: object, path: Path, allow: Collection[str] = ()) -> None:
    """Refuse content with attributes that would change what a class of it does.

    >>> check_instances({"state_dict": {}}, Path("weights.pt"))
    """
    waiting: list[tuple[str, object]] = [("", content)]
    seen: dict[int, object] = {}
    while waiting:  # not by recursion: a file can be nested deeper than Python calls
        where, value = waiting.pop()
        if id(value) in seen or isinstance(value, _OPAQUE):
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            _check_registries(value, where, path)
        _check_attributes(value, where, path, allow)
        waiting.extend(_inside(value, where))
    _check_tree([value for value in seen.values() if isinstance(value, nn.Module)], path)


@contextmanager
def unchanged_enums(values: Collection[object], path: Path) -> Iterator[None]:
    """Keep the members of allowed enums, which the whole process shares, from being given attributes by a file.

    >>> with unchanged_enums([Kind], Path("m.pt")):
    ...     content = torch.load("m.pt")
    """
    members = [member for value in values if isinstance(value, type) and issubclass(value, Enum) for member in value]
    before = [dict(vars(member)) for member in members]
    changed = []
    try:
        yield
    finally:
        for member, attributes in zip(members, before, strict=True):
            now = vars(member)
            if now.keys() != attributes.keys() or any(now[key] is not attributes[key] for key in now):
                now.clear()
                now.update(attributes)
                changed.append(member)
    if changed:
        raise UnsafeFileError(
            f"{path} would change {changed[0]!r} for the whole program, so it was refused; download it again."
        )


def inside(value: object) -> Iterator[object]:
    """Return what an unpickled object holds directly.

    >>> list(inside([1, 2]))
    [1, 2]
    """
    return (item for _, item in _inside(value, ""))


def _inside(value: object, where: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in dict.items(value):
            yield _join(where, key if isinstance(key, str) else "[...]"), item
            yield _join(where, "[...]"), key
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield _join(where, "[...]"), item
    elif isinstance(value, functools.partial):
        yield from ((where, item) for item in (value.func, value.args, value.keywords))
    for key, item in _attributes(value).items():
        yield _join(where, key), item
        if (
            key in _REGISTRIES and isinstance(value, nn.Module) and isinstance(item, dict)
        ):  # once more by the name that a user knows
            yield from ((_join(where, name), child) for name, child in dict.items(item))


def _join(where: str, name: str) -> str:
    return where if len(where) > _LONGEST else f"{where}.{name}".lstrip(".")[: 2 * _LONGEST]


def _attributes(value: object) -> dict[str, Any]:
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _check_registries(module: nn.Module, where: str, path: Path) -> None:
    for registry, kind in _REGISTRIES.items():
        held = vars(module).get(registry)
        if not isinstance(held, dict) or not all(
            isinstance(name, str) and (item is None or isinstance(item, kind)) for name, item in dict.items(held)
        ):
            _damaged(module, where, path, f"has a {registry} that does not map names to what belongs there")
    if not isinstance(vars(module).get("training"), bool):
        _damaged(module, where, path, "does not say whether it is training")


def _check_attributes(value: object, where: str, path: Path, allow: Collection[str]) -> None:
    kind = type(value)
    for key, item in _attributes(value).items():
        if not isinstance(key, str):
            _damaged(value, where, path, f"has an attribute whose name is {_describe(key)}")
        name = f"{kind.__module__}.{kind.__qualname__}.{key}"
        if name in allow or not _shadows(value, key, item) or _is_allowed(item, value, allow):
            continue
        spot = ascii(_join(where, key))
        raise UnsafeFileError(
            f"{path} puts {_describe(item)} in the place of the method {name}, at {spot}, so it was refused and not "
            f"used; if you trust the file, add --allow {name}."
        )
    if isinstance(value, nn.Module):
        _check_hooks(value, where, path, allow)


def _shadows(value: object, key: str, item: object) -> bool:
    """Return whether an attribute of an instance stands before a method of its class."""
    if key in _CALLED and isinstance(value, nn.Module):
        return item is not None
    if key == _TYPE and isinstance(item, str):
        return False
    method = inspect.getattr_static(type(value), key, None)
    return inspect.isroutine(method) and not isinstance(method, functools.cached_property)


def _is_allowed(item: object, owner: object, allow: Collection[str]) -> bool:
    """Return whether the user allowed the item, or it is the owner's own method, chosen at construction (FasterNet)."""
    own = inspect.ismethod(item) and item.__self__ is owner
    named = item if isinstance(item, (type, FunctionType, BuiltinFunctionType)) else type(item)
    return own or f"{named.__module__}.{named.__qualname__}" in allow


def _check_hooks(module: nn.Module, where: str, path: Path, allow: Collection[str]) -> None:
    kind = type(module)
    for key in sorted(_HOOKS & vars(module).keys()):
        hooks = vars(module)[key]
        if not isinstance(hooks, dict):
            _damaged(module, where, path, f"has {key} that are {_describe(hooks)}")
        name = f"{kind.__module__}.{kind.__qualname__}.{key}"
        foreign = [hook for hook in dict.values(hooks) if not _is_allowed(hook, module, allow)]
        if foreign and name not in allow:
            raise UnsafeFileError(
                f"{path} hooks {_describe(foreign[0])} to the {kind.__name__} at {where!a}, so it was refused "
                f"and not used; if you trust the file, add --allow {name}."
            )


def _check_tree(modules: list[nn.Module], path: Path) -> None:
    """Go up from the leaves, by as many steps as a tree can have; what is not reached then holds itself."""
    parents: dict[int, list[nn.Module]] = {}
    waiting = {id(module): 0 for module in modules}
    for module in modules:
        for child in (child for child in dict.values(module._modules) if child is not None):
            parents.setdefault(id(child), []).append(module)
            waiting[id(module)] += 1
    level, reached = [module for module in modules if not waiting[id(module)]], 0
    for _ in range(_DEEPEST):
        reached += len(level)
        above = [parent for module in level for parent in parents.get(id(module), ())]
        for parent in above:
            waiting[id(parent)] -= 1
        level = list({id(parent): parent for parent in above if not waiting[id(parent)]}.values())
    if reached < len(modules):
        raise FileError(
            f"{path} holds a module that is inside itself or {_DEEPEST} others, as in no model; save the model again."
        )


def _damaged(value: object, where: str, path: Path, fact: str) -> NoReturn:
    spot = f" at {where!a}" if where else ""
    raise FileError(f"{path} is damaged: its {type(value).__name__}{spot} {fact}; save the model again.")


def _describe(item: object) -> str:
    if isinstance(item, (type, FunctionType, BuiltinFunctionType)):
        return f"{item.__module__}.{item.__qualname__}"
    if item is None or isinstance(item, (bool, int, float, str)):
        return quoted(item)
    return "a tensor" if isinstance(item, torch.Tensor) else f"a {type(item).__name__}"
