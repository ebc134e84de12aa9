"""Building what a file names without taking much more than the file itself holds.

The name of an architecture is a few letters and may stand for a hundred gigabytes. Every tensor that is made of nothing
but numbers is counted before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blurify.errors import ArchitectureError

# Some networks make tensors that they do not store: tables of positions, layers that are replaced at once.
_FACTOR, _SPARE_BYTES, _SPARE_TENSORS = 4, 2**28, 10_000


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse to make tensors that the weights at hand, by name, do not justify.

    >>> with Bounded({"weight": torch.zeros(10)}):
    ...     torch.zeros(10)
    tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 0.])

    Raises:
        ArchitectureError: far more was asked for.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = _FACTOR * _stored(state) + _SPARE_BYTES
        self.tensors = 2 * _FACTOR * len(state) + _SPARE_TENSORS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what is made of no other tensor."""
        kwargs = kwargs or {}
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))) and _has_device(func):
            self.bytes -= func(*args, **{**kwargs, "device": torch.device("meta")}).nbytes
            self.tensors -= 1
            if self.bytes < 0 or self.tensors < 0:
                raise ArchitectureError("it would take far more than the weights in the file")
        return func(*args, **kwargs)


def _stored(state: Mapping[str, Any]) -> int:
    """The bytes of all numbers in single precision, in which networks are built; those with many names count once."""
    storages: dict[int, int] = {}
    for value in state.values():
        if isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_meta or value.is_nested):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes() * max(4, value.element_size()) // value.element_size()
    return sum(storages.values())


def _has_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)
