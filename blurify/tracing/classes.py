"""Let `isinstance` see a proxy as an instance of its value's class.

Not by a `__class__` of the proxy's own: torch's C++ code would take it for a tensor and read memory that is not there.
Only Python code outside of torch is answered so.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from blurify.tracing.recording import is_proxy

# What reads proxies as what they are.
UNANSWERED = frozenset({"torch", "blurify", "builtins", *sys.stdlib_module_names})


@contextmanager
def answered_classes(class_of: Callable[[Any], type], number: Callable[[Any], int]) -> Iterator[None]:
    """Answer `isinstance`, `torch.is_tensor`, `torch.jit.isinstance` and `range` by the class and number of a value."""

    def range_(*limits: Any) -> range:
        return builtins.range(*(int(number(limit)) if is_proxy(limit) else limit for limit in limits))

    def isinstance_(value: Any, kinds: Any) -> bool:
        kinds = builtins.range if kinds is range_ else kinds
        if not is_proxy(value):
            return builtins.isinstance(value, kinds)
        return builtins.isinstance(value, kinds) or issubclass(class_of(value), kinds)

    def is_tensor(value: Any) -> bool:
        return isinstance_(value, Tensor)

    def jit_isinstance(value: Any, kind: Any) -> bool:
        plain = builtins.isinstance(kind, (type, tuple))
        return isinstance_(value, kind) if is_proxy(value) and plain else bool(found_jit(value, kind))

    found_is_tensor: Any = torch.is_tensor
    found_jit: Any = torch.jit.isinstance
    # Modules may share their names.
    spaces = {id(vars(m)): vars(m) for name, m in list(sys.modules.items()) if is_answered(name, m)}.values()
    for space in spaces:
        space |= {"isinstance": isinstance_, "range": range_}
    torch.is_tensor, torch.jit.isinstance = is_tensor, jit_isinstance  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.is_tensor, torch.jit.isinstance = found_is_tensor, found_jit
        for space in spaces:
            del space["isinstance"], space["range"]


def is_answered(name: str, module: object) -> bool:
    """Return whether a module of Python is somebody's, with the built-in functions under these names."""
    space = getattr(module, "__dict__", None)
    somebodys = builtins.isinstance(space, dict) and name.partition(".")[0] not in UNANSWERED
    return somebodys and not {"isinstance", "range"} & space.keys()  # type: ignore[union-attr]
