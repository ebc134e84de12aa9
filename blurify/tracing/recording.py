"""Record what `forward` computes from the model's own tensors, and the random numbers that it draws.

A proxy sees only what is done to a proxy. Whatever else is done to parameters, buffers and other tensors of the model
would happen once, while the model is recorded, on the caller's own tensors, and its result would be a constant.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from blurify.errors import TraceError

if TYPE_CHECKING:
    from blurify.tracing.tracer import LeafAwareTracer

# These tell nothing of a tensor's values.
OF_FORM = frozenset(
    """
    size dim ndimension numel nelement stride element_size storage_offset is_floating_point is_complex is_contiguous
    is_signed get_device is_pinned data_ptr untyped_storage storage has_names is_same_size is_inference is_shared
    __len__ __repr__ __str__ __format__ __hash__ __deepcopy__ __reduce_ex__ __dir__ requires_grad_ register_hook
    retain_grad apply_ map_
    """.split()
)
# What these tell of its values cannot be recorded.
OF_VALUES = frozenset(
    """
    item tolist numpy equal allclose is_nonzero __bool__ __int__ __float__ __index__ __complex__ __contains__ __array__
    """.split()
)
# Of these, `.to(device)` and `.half()` make something else later.
CHANGING = frozenset({"dtype", "device"})
RANDOM = frozenset(
    {
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial),
        *(torch.poisson, torch.binomial, torch.rand_like, torch.randn_like, torch.randint_like),
        *(torch.nn.functional.dropout, torch.dropout, torch.Tensor.bernoulli, torch.Tensor.multinomial),
        *(getattr(torch.Tensor, f"{name}_") for name in "uniform normal bernoulli exponential random".split()),
        *(getattr(torch.Tensor, f"{name}_") for name in "cauchy log_normal geometric".split()),
    }
)
# What operators call on a tensor, and the operator; with the operands swapped for the second kind.
OPERATORS: dict[str, Callable[..., Any]] = {
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "matmul": operator.matmul,
}
SWAPPED: dict[str, Callable[..., Any]] = {
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
    "__rpow__": operator.pow,
    "__rmatmul__": operator.matmul,
    "__rfloordiv__": operator.floordiv,
}


# What makes tensors: given a proxy for a size, torch refuses it before it asks whether to record.
FACTORIES = tuple("arange empty eye full linspace ones rand randint randn randperm tensor as_tensor zeros".split())


class Recording(TorchFunctionMode):
    """While active, every call of torch that concerns the model's tensors, or chance, becomes a node."""

    def __init__(self, tracer: LeafAwareTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __enter__(self) -> Recording:
        """Begin to record, the factories of torch included."""
        self.factories = {name: getattr(torch, name) for name in FACTORIES}
        for name, factory in self.factories.items():
            setattr(torch, name, self._recorded(factory))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """End to record."""
        for name, factory in self.factories.items():
            setattr(torch, name, factory)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _recorded(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(factory)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if any(map(is_proxy, leaves((args, kwargs)))):
                return self._record(factory, args, kwargs)
            return factory(*args, **kwargs)

        return recorded

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the call, or make it."""
        kwargs = kwargs or {}
        if not self.tracer.recording:
            return func(*args, **kwargs)
        if func.__name__ in ("__get__", "__set__"):
            return self._attribute(func, args)
        concerned = any(map(self.tracer.concerns, leaves((args, kwargs))))
        if func not in RANDOM and (not concerned or func.__name__ in OF_FORM):
            return func(*args, **kwargs)
        if func.__name__ in OF_VALUES and not any(is_proxy(leaf) for leaf in leaves((args, kwargs))):
            return self._value(func, args, kwargs)
        if isinstance(func, (torch._C.ScriptMethod, torch._ops.HigherOrderOperator)):
            return func(*args, **kwargs)
        self._promote_written(func, args, kwargs)
        return self._record(func, args, kwargs)

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Proxy:
        name = func.__name__
        if not is_tensor_method_or_property(func):
            return self.tracer.create_proxy(
                "call_function", func, args, kwargs, name=self.tracer.graph._target_to_str(name)
            )
        plain = not kwargs and len(args) == (3 if name == "__setitem__" else 2)
        if plain and name in OPERATORS:
            return self.tracer.create_proxy("call_function", OPERATORS[name], args, {})
        if plain and name in SWAPPED:
            return self.tracer.create_proxy("call_function", SWAPPED[name], args[::-1], {})
        return self.tracer.create_proxy("call_method", name, args, kwargs)

    def _attribute(self, func: Any, args: tuple[Any, ...]) -> Any:
        """Read an attribute of a tensor: what is a tensor again, or changes with the model, is recorded."""
        name = getattr(func.__self__, "__name__", "")
        if is_proxy(args[0]) or not self.tracer.concerns(args[0]):
            return func(*args)
        if func.__name__ == "__set__":
            if name != "data":
                return func(*args)
            data = self.tracer.create_proxy("call_function", getattr, (args[0], name), {})
            return self.tracer.create_proxy("call_method", "copy_", (data, args[1]), {})
        value = func(*args)
        if name in CHANGING or isinstance(value, Tensor):
            return self.tracer.create_proxy("call_function", getattr, (args[0], name), {})
        return value

    def _value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at the values of tensors: what the graph does with them holds for these values."""
        paths = [self.tracer.path_of_tensor(leaf) for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.tracer.omit(f"what the value of {next(filter(None, paths), 'a tensor')!r} decides")
        return func(*args, **kwargs)

    def _promote_written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let a tensor that `forward` made be a node from its first recorded write on."""
        name = func.__name__
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        written = [*args[:1]] if writes else []
        written += [kwargs["out"]] if isinstance(kwargs.get("out"), Tensor) else []
        for tensor in written:
            if isinstance(tensor, Tensor) and not is_proxy(tensor) and not self.tracer.concerns(tensor):
                if tensor._base is not None:
                    raise TraceError("it writes to a part of a tensor that it made, which a graph cannot follow")
                self.tracer.promote(tensor)


def is_proxy(value: object) -> bool:
    """Return whether the value is a proxy, whatever class it says to be of."""
    return issubclass(type(value), fx.Proxy)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the items of nested tuples, lists, dicts and slices."""
    if is_proxy(value):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, slice):
        yield from leaves((value.start, value.stop, value.step))
    else:
        yield value
