"""Let `isinstance` see a proxy as an instance of its value's class.

Not by a `__class__` of the proxy's own: torch's C++ code would take it for a tensor and read memory that is not there.
Only Python code outside of torch is answered so. The built-in functions are replaced where all code finds them and see
by whom they are called: to give every module its own takes longer than to trace a small model.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from blurify.tracing.recording import is_proxy

# What reads proxies as what they are.
UNANSWERED = frozenset({"torch", "blurify", "builtins", *sys.stdlib_module_names})


@contextmanager
def answered_classes(class_of: Callable[[Any], type], number: Callable[[Any], int]) -> Iterator[None]:
    """Answer `isinstance`, `torch.is_tensor`, `torch.jit.isinstance` and `range` by the class and number of a value."""
    plain_isinstance, plain_range = builtins.isinstance, builtins.range
    plain_is_tensor: Any = torch.is_tensor
    plain_jit: Any = torch.jit.isinstance

    def isinstance_(value: Any, kinds: Any) -> bool:
        if plain_isinstance(value, kinds):
            return True
        return is_proxy(value) and _is_answered(sys._getframe(1)) and issubclass(class_of(value), kinds)

    class Ranges(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return plain_isinstance(value, plain_range)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, plain_range)

        def __call__(cls, *limits: Any) -> Any:
            answered = any(map(is_proxy, limits)) and _is_answered(sys._getframe(1))
            return plain_range(*(int(number(x)) if answered and is_proxy(x) else x for x in limits))

    class range_(metaclass=Ranges):
        pass

    def is_tensor(value: Any) -> bool:
        return bool(plain_is_tensor(value)) or (is_proxy(value) and issubclass(class_of(value), Tensor))

    def jit_isinstance(value: Any, kind: Any) -> bool:
        if is_proxy(value) and plain_isinstance(kind, (type, tuple)):
            return plain_isinstance(value, kind) or issubclass(class_of(value), kind)
        return bool(plain_jit(value, kind))

    builtins.isinstance, builtins.range = isinstance_, range_  # type: ignore[assignment, misc]
    torch.is_tensor, torch.jit.isinstance = is_tensor, jit_isinstance  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.isinstance, builtins.range = plain_isinstance, plain_range  # type: ignore[misc]
        torch.is_tensor, torch.jit.isinstance = plain_is_tensor, plain_jit


def _is_answered(caller: FrameType) -> bool:
    return str(caller.f_globals.get("__name__")).partition(".")[0] not in UNANSWERED
