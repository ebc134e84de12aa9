"""Proxies that answer what can be known of a value while `forward` is recorded, and record what writes to it."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx
from torch.fx.node import Node
from torch.fx.proxy import Attribute

from blurify.graph.paths import IN_PLACE
from blurify.tracing.branches import passing_answer, unpacked_length
from blurify.tracing.recording import OF_FORM, OF_VALUES

if TYPE_CHECKING:
    from blurify.tracing.tracer import LeafAwareTracer


class TruthfulProxy(fx.Proxy):
    """A `torch.fx.Proxy` whose attributes, length and truth are those of the value, where these are known.

    It records `x += y` and `x[i] = y` as what they are: else another name of `x` would not see them. There is no
    `__index__`: torch would ask for it, and record a size of the example in the place of the input's.
    """

    tracer: LeafAwareTracer

    def __getattr__(self, k: str) -> TruthfulAttribute:
        if not self.tracer.questions.has_attribute(self, k):
            raise AttributeError(f"'Tensor' object has no attribute {k!r}")
        return TruthfulAttribute(self, k)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            data = self.tracer.create_proxy("call_function", getattr, (self, "data"), {})
            self.tracer.create_proxy("call_method", "copy_", (data, value), {})
        else:
            object.__setattr__(self, name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __bool__(self) -> bool:
        answer = passing_answer(sys._getframe(1))
        return self.tracer.questions.truth(self) if answer is None else answer

    def __int__(self) -> int:
        return int(self.tracer.questions.number(self))

    def __float__(self) -> float:
        return float(self.tracer.questions.number(self))

    def __len__(self) -> int:
        return self.tracer.questions.length(self)

    def __iter__(self) -> Iterator[Any]:
        length = unpacked_length(sys._getframe(1))
        return (self[i] for i in range(self.tracer.questions.length(self) if length is None else length))  # type: ignore[index]


class TruthfulAttribute(TruthfulProxy, Attribute):
    """Stand for `proxy.name`: a node of its own where it is read, and a method where it is called."""

    def __getattr__(self, k: str) -> TruthfulAttribute:
        return TruthfulAttribute(self, k)


class TensorProxy(TruthfulProxy):
    """A proxy of a parameter or buffer, which is there to be asked for its form and, for want of better, its values."""

    def __init__(self, path: str, tensor: Tensor, tracer: LeafAwareTracer) -> None:
        self.path = path
        self.tensor = tensor
        self.tracer = tracer

    @property
    def node(self) -> Node:  # type: ignore[override]
        """Return the node that reads the tensor, made when something is done to it."""
        return self.tracer.reading(self.path)

    def __getattr__(self, k: str) -> Any:
        if k in OF_VALUES:
            self.tracer.omit(f"what the value of {self.path!r} decides")
        if k in OF_VALUES or k in OF_FORM or k in ("shape", "ndim", "requires_grad", "is_leaf"):
            return getattr(self.tensor, k)
        return super().__getattr__(k)


def _in_place(operation: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _operation in IN_PLACE:
    setattr(TruthfulProxy, f"__{_operation.__name__}__", _in_place(_operation))
