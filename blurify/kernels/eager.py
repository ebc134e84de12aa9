"""Decide if a plain kernel may compute on a tensor, and if a batch is worth splitting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

# So much of a map stays in a processor's cache, in bytes, and in the memory that the C library keeps: what is larger it
# soon gives back to the system, which clears it for the next use.
PART = 2 * 2**20
# Compiled code holds every part by itself, and takes as long to be made as there are parts.
MOST_COMPILED = 16

# PyTorch 2.6 does not tell.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", bool)


def is_float_map(x: Tensor) -> bool:
    """Return whether the tensor is a plain batch of maps on the CPU."""
    return type(x) is Tensor and x.dim() == 4 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def is_eager(x: Tensor) -> bool:
    """Return whether the tensor is a plain float map on the CPU, and nothing looks on or computes otherwise."""
    if not is_float_map(x) or x.numel() == 0:
        return False
    recorded = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    recorded = recorded or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    transformed = forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    return not recorded and not transformed and not torch.is_autocast_enabled("cpu")


def is_compiled_for_its_size(x: Tensor) -> bool:
    """Return whether code is being compiled that runs such float maps on the CPU, and of this size alone.

    A program that is exported, or a batch of any size, has no number of parts.
    """
    if not torch.compiler.is_dynamo_compiling() or is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    # Whoever compiles has loaded this; it is slow to load.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return is_float_map(x) and all(has_static_value(size) for size in x.shape)


def samples_at_a_time(x: Tensor, channels: float = 0.0) -> int | None:
    """How many samples of a batch to run at a time, whose largest map has so many channels; None for all at once.

    A map that does not fit the cache is written to memory and read again by every layer, and memory of that size is
    given back to the system and cleared by it for every layer again.
    """
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.is_grad_enabled() or not is_float_map(x):
        return None
    compiled = is_compiled_for_its_size(x)
    if torch.compiler.is_compiling() and not compiled:
        return None
    samples, own, height, width = x.shape
    size = max(own, channels) * height * width * x.element_size()
    if samples == 1 or samples * size < 2 * PART or not (compiled or is_eager(x)):
        return None
    return max(1, int(PART // size), -(-samples // MOST_COMPILED) if compiled else 1)


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor, samples: int) -> Tensor:
    """Run so many samples at a time."""
    return torch.cat([run(part) for part in torch.split(x, samples)])
