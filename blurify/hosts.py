"""Modules of a model that blur what they take or give, and are still of their own class.

A stable, public path: pickled models that kept their class name `rebuild`.

A host is an instance of a subclass, made on the fly, of the class that it was of. So `isinstance`, its attributes, its
hooks and the names in its `state_dict` stay what they were. The blur is a child of the host, which is what moves it
between devices, shows it to whoever looks at the model, and lets every tracer, compiler and exporter see it.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import nn

from blurify.errors import ArgumentTypeError

BEFORE, AFTER = "blur_before", "blur_after"
# What runs its children one after the other, or is looked at as a list of them: a child more would be one too many.
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Host(nn.Module):
    """Mixed into a host's class: how it is copied and pickled, though nobody can import its class."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind: Any = type(self)
        # `object` has `__getstate__` from Python 3.11 on.
        state = self.__getstate__() if hasattr(self, "__getstate__") else dict(self.__dict__)  # type: ignore[no-untyped-call]
        return rebuild, (kind.original, kind.blurs, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Host:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


class BlursInput(Host):
    """Blurs its first argument."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Do what the original class does, to `x` blurred."""
        return super().forward(self.blur_before(x), *args, **kwargs)  # type: ignore[operator]


class BlursOutput(Host):
    """Blurs what it gives."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the original class does, and blur that."""
        return self.blur_after(super().forward(*args, **kwargs))  # type: ignore[operator]


MIXINS: dict[str, type[Host]] = {BEFORE: BlursInput, AFTER: BlursOutput}


@cache
def host_class(original: Any, blurs: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of `original` that blurs before, after or both; the same one whenever asked."""
    mixins = tuple(MIXINS[name] for name in blurs)
    names = {"__module__": __name__, "__doc__": original.__doc__, "original": original, "blurs": blurs}
    return type(original.__name__, (*mixins, original), names)


def can_host(module: nn.Module, name: str) -> bool:
    """Whether the module can be made to blur so: its class's `forward` is what runs, and it has no such blur yet."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    own_forward = "forward" in module.__dict__
    if is_sequence(module):
        return name == AFTER and not own_forward and not hasattr(module, name)
    return not isinstance(module, LISTS) and not own_forward and not hasattr(module, name)


def is_sequence(module: nn.Module) -> bool:
    """Whether the module only runs its children, so that a blur after it is one child more."""
    return type(module).forward is nn.Sequential.forward


def make_host(module: nn.Module, name: str, blur: nn.Module) -> None:
    """Let the module blur what it takes (`BEFORE`) or what it gives (`AFTER`).

    >>> relu = nn.ReLU()
    >>> make_host(relu, AFTER, nn.AvgPool2d(2))
    >>> isinstance(relu, nn.ReLU), relu(torch.zeros(1, 1, 4, 4)).shape
    (True, torch.Size([1, 1, 2, 2]))
    """
    blur.train(module.training)
    if not is_sequence(module):
        kind: Any = type(module)
        original, blurs = (kind.original, kind.blurs) if isinstance(module, Host) else (kind, ())
        module.__class__ = host_class(original, tuple(sorted((*blurs, name))))
    module.add_module(name, blur)


def rebuild(original: type[nn.Module], blurs: tuple[str, ...], state: dict[str, Any]) -> nn.Module:
    """Make a host anew from what `pickle` kept of it.

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
