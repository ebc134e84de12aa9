"""Modules that only pass their call on to one other module, and the stack below a module that is TorchScript.

`nn.DataParallel`, `DistributedDataParallel`, `torch.compile` and `AveragedModel` wrap a model or a part of it. They are
seen through: what they hold is traced under the names that it has in the `state_dict`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
COMPILED = "_orig_mod"


def wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module that a wrapper passes its call on to; None for a module that is no wrapper."""
    if isinstance(module, HOLDERS):
        return module._modules.get("module")
    # The registries of a TorchScript module are no dicts.
    return None if isinstance(module, torch.jit.ScriptModule) else module._modules.get(COMPILED)


def innermost(module: nn.Module) -> nn.Module:
    """Return the module below all wrappers."""
    inner = wrapped(module)
    return module if inner is None else innermost(inner)


@contextmanager
def seen_through(model: nn.Module) -> Iterator[None]:
    """Let every wrapper in the model call the module it holds, and nothing else: no devices, no compiler.

    The signature of a wrapper's `forward` is meanwhile that of the innermost module.
    """
    wrappers = [module for module in model.modules() if wrapped(module) is not None]
    found = [module.__dict__.get("forward") for module in wrappers]
    try:
        for module in wrappers:
            module.__dict__["forward"] = _passing_on(module)
        yield
    finally:
        for module, forward in zip(wrappers, found, strict=True):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _passing_on(module: nn.Module) -> Callable[..., Any]:
    inner: Any = wrapped(module)

    @functools.wraps(innermost(module).forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    return forward


# The operators of TorchScript that may have a stride above 1, by the argument that is their window.
STRIDED = {
    f"aten::{name}{axes}d": window
    for name, window in {"conv": "", "max_pool": "kernel_size", "avg_pool": "kernel_size"}.items()
    for axes in (1, 2, 3)
} | {"aten::_convolution": "", "aten::convolution": ""}


def scripted_strides(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the strides above 1 of the operators in a TorchScript module, by the operator's name and number."""
    found: dict[str, tuple[int, ...]] = {}
    # The graph is of torch's own C++ classes, which have no types.
    graph: Any = module.inlined_graph
    for kind, window in STRIDED.items():
        strides = [_stride(node, window) for node in graph.findAllNodes(kind)]
        name = kind.removeprefix("aten::").removeprefix("_")
        for stride in strides:
            if any(s > 1 for s in stride):
                number = sum(known.partition(" ")[0] == name for known in found)
                found[f"{name} {number}"] = stride
    return {key.replace(" 0", "").replace(" ", "_"): stride for key, stride in found.items()}


def _stride(node: Any, window: str) -> tuple[int, ...]:
    return _numbers(node.namedInput("stride")) or (_numbers(node.namedInput(window)) if window else ())


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the constants in a list of TorchScript; those that are computed are left out."""
    given = value.toIValue()
    if given is None:
        given = [item.toIValue() for item in value.node().inputs()]
    return tuple(item for item in given if isinstance(item, int))
