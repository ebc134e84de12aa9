"""Stand-ins for objects that lie next to the weights: nothing of their classes is imported, and they do nothing.

Training scripts save scores as NumPy numbers, paths, configurations and counters next to the weights. Such an object is
read as its state alone. Whatever is made of stand-ins is dropped after reading; a model that holds one is refused.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import EnumMeta
from typing import Any, ClassVar

from torch import nn

from blurify.files.untrusted.arrays import ARRAYS, Array

# Parts of the standard library whose objects are data; a file that names another part of it is no training script's.
_DATA = {
    *("collections", "pathlib", "pathlib._local", "argparse", "datetime", "decimal", "fractions", "uuid", "types"),
    *("enum", "typing", "logging", "dataclasses", "time", "copyreg", "functools", "random"),
}
_DATA_BUILTINS = {
    *("getattr", "object", "slice", "frozenset", "range", "dict", "list", "tuple", "type", "int", "float"),
    *("str", "bool", "bytes", "set", "complex"),
}
_OWN = ("torch", "torchvision", "timm", "blurify")
GETATTR = "builtins.getattr"
# Says that a model holds arrays, which several names make together.
NUMPY = "numpy."


class StandIn(list[Any]):
    """An object of a class that is not loaded: a list, since some are appended to, with a state that nothing reads."""

    name: ClassVar[str] = ""
    held: Any = ()

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __setstate__(self, state: Any) -> None:
        self.held = (self.held, state)

    @property
    def is_module(self) -> bool:
        """Return whether the state is that of a torch module."""
        state = self.held[-1] if self.held else None
        return isinstance(state, dict) and {"_modules", "_parameters"} <= state.keys()


class StandInMapping:
    """What items are put into becomes an ordered dict, the only mapping that torch's unpickler fills."""

    def __new__(cls, *_: Any) -> Any:
        """Return an empty mapping."""
        return OrderedDict()


def may_stand_in(name: str) -> bool:
    """Return whether an object of that name may be left out where it is no part of a model.

    >>> may_stand_in("numpy.dtype"), may_stand_in("subprocess.Popen")
    (True, False)
    """
    module, _, last = name.rpartition(".")
    package = name.partition(".")[0]
    if package == "builtins":
        return last in _DATA_BUILTINS
    if package in _OWN:
        return last[:1].isupper()
    return module in _DATA or package not in sys.stdlib_module_names or package == "__main__"


def stand_in(name: str, is_mapping: bool) -> Callable[..., Any]:
    """Return what a pickle makes in place of what it names."""
    if name in ARRAYS:
        return ARRAYS[name]
    if name == GETATTR:
        return enum_member
    if is_mapping:
        return StandInMapping
    return type("StandIn", (StandIn,), {"name": name})


def enum_member(owner: Any, name: Any) -> Any:
    """Return a member of an enum that the file may use, as Python 3.11.0 to 3.11.3 pickle it; else a stand-in."""
    if isinstance(owner, EnumMeta) and isinstance(name, str) and name in owner.__members__:
        return owner.__members__[name]
    return type("StandIn", (StandIn,), {"name": GETATTR})(owner, name)


def names_in(value: object, inside: Callable[[object], Iterator[object]]) -> set[str]:
    """Return the names of all stand-ins that an object holds, at any depth."""
    waiting, seen, names = [value], set(), set()
    while waiting:  # not by recursion: a file can be nested deeper than Python calls
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        kind = item if isinstance(item, type) else type(item)
        if issubclass(kind, StandIn):
            names.add(kind.name)
        elif isinstance(item, Array):
            names.add(NUMPY)
        if not isinstance(item, type):
            waiting.extend(inside(item))
    return names


def without_stand_ins(
    content: Any, inside: Callable[[object], Iterator[object]], depth: int = 8
) -> tuple[Any, set[str]]:
    """Return the content without what is made of stand-ins, and the names that a model among these needs."""
    if isinstance(content, Array):
        return content.tensor(), set()
    if isinstance(content, StandIn):
        return None, names_in(content, inside) if content.is_module else set()
    if isinstance(content, nn.Module):
        names = names_in(content, inside)
        return (None if names else content), names
    needed: set[str] = set()
    if isinstance(content, dict) and depth:
        for key, value in list(dict.items(content)):
            kept, names = without_stand_ins(value, inside, depth - 1)
            needed |= names
            if kept is None and value is not None:
                dict.__delitem__(content, key)
            elif kept is not value:
                dict.__setitem__(content, key, kept)
    return content, needed


def has_weights(content: object, is_weight: Callable[[object], bool], depth: int = 8) -> bool:
    """Return whether a module, or a mapping of dotted names to tensors, is left."""
    if isinstance(content, nn.Module):
        return True
    if not isinstance(content, dict) or not depth:
        return False
    return any(
        (isinstance(key, str) and "." in key and is_weight(value)) or has_weights(value, is_weight, depth - 1)
        for key, value in dict.items(content)
    )
