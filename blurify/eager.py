"""Whether a tensor is computed with at once, by nobody else's rules, and whether a batch is worth taking in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

# So much of a map stays in a processor's cache, in bytes.
PART = 6 * 2**20


def is_eager(x: Tensor) -> bool:
    """Whether the tensor is a plain float map on the CPU, and nothing looks on or computes otherwise."""
    plain_map = type(x) is Tensor and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if not plain_map or x.dim() != 4 or x.numel() == 0:
        return False
    recorded = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    recorded = recorded or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    transformed = forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    return not recorded and not transformed and not torch.is_autocast_enabled("cpu")


def samples_at_a_time(x: Tensor, channels: float = 0.0) -> int | None:
    """How many samples of a batch to run at a time, whose largest map has so many channels; None for all at once.

    A map that does not fit the cache is written to memory and read again by every layer, and memory of that size is
    given back to the system and cleared by it for every layer anew.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if type(x) is not Tensor or recorded or torch.is_grad_enabled() or x.dim() != 4:
        return None
    samples, own, height, width = x.shape
    size = max(own, channels) * height * width * x.element_size()
    if samples == 1 or samples * size < 2 * PART or not is_eager(x):
        return None
    return max(1, int(PART // size))


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor, samples: int) -> Tensor:
    """Run so many samples at a time."""
    return torch.cat([run(part) for part in torch.split(x, samples)])
