"""Modules of a model that blur what they take or give, and are still of their own class.

Pickled models that kept their class name `rebuild`, as `blurify.saved.host`.

A host is an instance of a subclass, made on the fly, of the class that it was of. So `isinstance`, its attributes, its
hooks and the names in its `state_dict` stay what they were. The blur is a child of the host, which is what moves it
between devices, shows it to whoever looks at the model, and lets every tracer, compiler and exporter see it.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import FunctionType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentTypeError
from blurify.graph.lowering import is_watched
from blurify.kernels import eager

BEFORE, AFTER = "blur_before", "blur_after"
# Takes a large batch a few samples at a time.
PARTS = "in_parts"
# What runs its children one after the other, or is looked at as a list of them: a child more would be one too many.
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class BlurWrapper(nn.Module):
    """Mixed into a host's class: how it is copied and pickled, though nobody can import its class.

    A `__deepcopy__` would be found by what `torch.compile` wraps around a host too, whose copy then lost its wrapper.
    """

    original: ClassVar[Any]
    blurs: ClassVar[tuple[str, ...]]
    # How many channels the largest map has of what is taken in parts.
    part_channels = 0.0

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind: Any = type(self)
        # `object` has `__getstate__` from Python 3.11 on.
        state = self.__getstate__() if hasattr(self, "__getstate__") else dict(self.__dict__)  # type: ignore[no-untyped-call]
        return rebuild, (kind.original, kind.blurs, state)


class BlursInput(BlurWrapper):
    """Blurs its first argument."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Do what the original class does, to `x` blurred."""
        return super().forward(self.blur_before(x), *args, **kwargs)  # type: ignore[operator]


class InParts(BlurWrapper):
    """Runs a large batch a few samples at a time."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Do what the original class does, to as many samples at a time as are worth it."""
        run = super().forward
        samples = eager.samples_at_a_time(x, self.part_channels)
        if samples is None or any(map(is_watched, self.modules())):
            return run(x, *args, **kwargs)
        return eager.in_parts(lambda part: run(part, *args, **kwargs), x, samples)


class BlursOutput(BlurWrapper):
    """Blurs what it gives."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the original class does, and blur that."""
        return self.blur_after(super().forward(*args, **kwargs))  # type: ignore[operator]


# What is mixed in first runs around the others.
MIXINS: dict[str, type[BlurWrapper]] = {PARTS: InParts, AFTER: BlursOutput, BEFORE: BlursInput}


def _before(self: Any, x: Tensor) -> Tensor:
    return self.hosted(self.blur_before(x))  # type: ignore[no-any-return]


def _after(self: Any, x: Tensor) -> Tensor:
    return self.blur_after(self.hosted(x))  # type: ignore[no-any-return]


def _around(self: Any, x: Tensor) -> Tensor:
    return self.blur_after(self.hosted(self.blur_before(x)))  # type: ignore[no-any-return]


def _in_parts(self: Any, x: Tensor) -> Tensor:
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        samples = eager.samples_at_a_time(x, self.part_channels)
        if samples is not None and not any(map(is_watched, self.modules())):
            return eager.in_parts(self.whole, x, samples)
    return self.whole(x)  # type: ignore[no-any-return]


# TorchScript knows neither `super` nor `*args`, so what takes one argument has a method of the original's instead.
OF_ONE: dict[tuple[str, ...], Any] = {(BEFORE,): _before, (AFTER,): _after, (AFTER, BEFORE): _around}


@cache
def host_class(original: Any, blurs: tuple[str, ...]) -> type[nn.Module]:
    """Return the subclass of `original` that blurs before, after or both; the same one whenever asked."""
    names = {"__module__": __name__, "__doc__": original.__doc__, "original": original, "blurs": blurs}
    forward = original.forward
    if not takes_one(forward):
        mixins = (mixin for name, mixin in MIXINS.items() if name in blurs)
        return type(original.__name__, (*mixins, original), names)
    argument = forward.__code__.co_varnames[1]
    around = tuple(name for name in blurs if name != PARTS)
    run = renamed(OF_ONE[around], "forward", argument) if around else forward
    methods = {"hosted": renamed(forward, "hosted"), "forward": run}
    if PARTS in blurs:
        methods |= {"whole": renamed(run, "whole"), "forward": renamed(_in_parts, "forward", argument)}
    return type(original.__name__, (BlurWrapper, original), names | methods)


def takes_one(forward: Any) -> bool:
    """Return whether the method takes one argument besides `self`, which has no default."""
    code = getattr(forward, "__code__", None)
    if not isinstance(forward, FunctionType) or code is None:
        return False
    several = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    return code.co_argcount == 2 and not code.co_kwonlyargcount and not several and not forward.__defaults__


def renamed(method: Any, name: str, argument: str | None = None) -> FunctionType:
    """Return the method under another name, with another name for its one argument if that is given."""
    code = method.__code__
    if argument is not None:
        code = code.replace(co_varnames=(code.co_varnames[0], argument, *code.co_varnames[2:]))
    twin = FunctionType(code, method.__globals__, name, method.__defaults__, method.__closure__)
    twin.__dict__.update(method.__dict__)
    twin.__module__, twin.__doc__ = method.__module__, method.__doc__
    twin.__annotations__ = {
        argument if key == "x" and argument else key: value for key, value in method.__annotations__.items()
    }
    return twin


def can_host(module: nn.Module, name: str) -> bool:
    """Return whether the module can be wrapped so: its class's `forward` runs, and it has no such blur yet."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    own_forward = "forward" in module.__dict__
    if is_sequence(module):
        return name == AFTER and not own_forward and not hasattr(module, name)
    return not isinstance(module, LISTS) and not own_forward and not hasattr(module, name)


def is_sequence(module: nn.Module) -> bool:
    """Return whether the module only runs its children, so that a blur after it is one child more."""
    return original_class(module).forward is nn.Sequential.forward


def original_class(module: nn.Module) -> Any:
    """Return the class that the module had before it became a host."""
    kind: Any = type(module)
    return kind.original if isinstance(module, BlurWrapper) else kind


def make_host(module: nn.Module, name: str, blur: nn.Module) -> None:
    """Let the module blur what it takes (`BEFORE`) or what it gives (`AFTER`).

    >>> relu = nn.ReLU()
    >>> make_host(relu, AFTER, nn.AvgPool2d(2))
    >>> isinstance(relu, nn.ReLU), relu(torch.zeros(1, 1, 4, 4)).shape
    (True, torch.Size([1, 1, 2, 2]))
    """
    blur.train(module.training)
    if not is_sequence(module):
        become_host(module, name)
    module.add_module(name, blur)


def take_in_parts(module: nn.Module, channels: float) -> None:
    """Let the module, which treats each sample by itself, take large batches in parts."""
    become_host(module, PARTS)
    module.__dict__["part_channels"] = channels


def is_in_parts(module: nn.Module) -> bool:
    """Return whether the module takes large batches in parts."""
    return isinstance(module, BlurWrapper) and PARTS in module.blurs


def become_host(module: nn.Module, name: str) -> None:
    """Make the module's class a subclass of its own that does also what the name says."""
    blurs = type(module).blurs if isinstance(module, BlurWrapper) else ()
    module.__class__ = host_class(original_class(module), tuple(sorted({*blurs, name})))


def rebuild(original: type[nn.Module], blurs: tuple[str, ...], state: dict[str, Any]) -> nn.Module:
    """Make a host again from what `pickle` kept of it.

    Raises:
        ArgumentTypeError: the class is no module's.
    """
    known = isinstance(blurs, tuple) and all(name in MIXINS for name in blurs)
    if not (isinstance(original, type) and issubclass(original, nn.Module) and known):
        raise ArgumentTypeError(f"{original!r} is no class of modules that blur at {blurs!r}; save the model again.")
    kind: Any = original
    host: Any = host_class(kind, blurs)
    module: nn.Module = host.__new__(host)
    module.__setstate__(state)  # type: ignore[no-untyped-call]
    return module


rebuild.__module__, rebuild.__qualname__ = "blurify.saved", "host"
