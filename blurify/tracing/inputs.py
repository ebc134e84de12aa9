"""What to run a model on when the user did not say: its own input size, dtype and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentTypeError

DEFAULT_INPUT_SIZE = (3, 224, 224)


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Positional arguments from what a user calls example inputs: one tensor, or a sequence of arguments.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str) and example_inputs:
        return tuple(example_inputs)
    raise ArgumentTypeError(
        f"example_inputs must be a tensor or a non-empty tuple of the model's arguments, got {example_inputs!r}."
    )


def input_size(model: nn.Module) -> tuple[int, ...]:
    """`(C, H, W)` from the model's own `default_cfg` (timm), else from its first conv's channels, else 3x224x224."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else None
        if isinstance(size, Sequence):
            return (_in_channels(model) or int(size[0]), *size[1:])
    return (_in_channels(model) or DEFAULT_INPUT_SIZE[0], *DEFAULT_INPUT_SIZE[1:])


def _in_channels(model: nn.Module) -> int | None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return int(module.in_channels)
    return None


def example_for(model: nn.Module, batch: int = 1) -> tuple[Tensor, ...]:
    """One seeded random batch of the model's input size, dtype and device; the global RNG is untouched."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return (random_batch((batch, *input_size(model)), parameter),)


def random_batch(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal values, the same for the same shape everywhere."""
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device=like.device, dtype=like.dtype)
