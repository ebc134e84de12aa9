"""Leave the caller's model and random state as found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from blurify.graph_module import TracedModule


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Restore every module's `training` flag and the random state, whatever happens inside."""
    flags = [(module, module.training) for module in model.modules()]
    devices = list({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
            if isinstance(module, TracedModule):
                module.follow_mode()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into `.eval()` without gradients, and leave it as found."""
    with as_found(model), torch.no_grad():
        # An exported module has one mode, and refuses to be asked.
        with suppress(NotImplementedError):
            model.eval()
        yield


def flags_against(model: nn.Module, mode: bool) -> frozenset[str]:
    """Paths whose flag is not the given mode."""
    return frozenset(name for name, module in model.named_modules() if module.training is not mode and name)
