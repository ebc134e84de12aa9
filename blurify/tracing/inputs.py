"""Inputs to run a model on: the user's own, or random ones of the model's input size, dtype and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from blurify.errors import ArgumentTypeError

DEFAULT_INPUT_SIZE = (3, 224, 224)
# A first conv with more is fed by a space-to-depth or a transform (TResNet 48, CSATv2 64), not by the image.
MOST_CHANNELS = 16


@dataclass(frozen=True)
class Inputs:
    """The positional and keyword arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def copied(self) -> Inputs:
        """Return the same with tensors of their own, since some models scale their input in place."""
        args, kwargs = tree_map_only(Tensor, torch.clone, (self.args, self.kwargs))
        return Inputs(args, kwargs)

    def shapes(self) -> tuple[tuple[int, ...], ...] | None:
        """Return the shapes of the arguments where all are positional tensors; a file keeps no more of them."""
        if self.kwargs or not all(isinstance(arg, Tensor) for arg in self.args):
            return None
        return tuple(tuple(arg.shape) for arg in self.args)

    def sizes(self) -> str:
        """Return the tensors' sizes, for a message."""
        tensors = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        return ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)


def as_inputs(example_inputs: Any, example_kwargs: Any = None) -> Inputs | None:
    """Hold the user's example inputs: one tensor or a sequence of arguments, and keyword arguments; None for neither.

    Raises:
        ArgumentTypeError: they are something else.
    """
    if example_kwargs is not None and not isinstance(example_kwargs, Mapping):
        raise ArgumentTypeError(f"example_kwargs must map argument names to values, got {example_kwargs!r}.")
    kwargs = dict(example_kwargs or {})
    if example_inputs is None:
        return Inputs((), kwargs) if kwargs else None
    if isinstance(example_inputs, Tensor) or (isinstance(example_inputs, Mapping) and example_inputs):
        return Inputs((example_inputs,), kwargs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str) and (example_inputs or kwargs):
        return Inputs(tuple(example_inputs), kwargs)
    raise ArgumentTypeError(
        "example_inputs must be a tensor, a dict that forward takes, or a non-empty tuple of forward's arguments; "
        f"got {example_inputs!r}."
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
            return int(module.in_channels) if module.in_channels <= MOST_CHANNELS else None
    return None


def example_for(model: nn.Module, batch: int = 1) -> Inputs:
    """Return a seeded random batch of the model's input size, dtype and device; the global RNG is untouched."""
    return Inputs((random_batch((batch, *input_size(model)), number_of(model)),))


def number_of(model: nn.Module) -> Tensor:
    """Return a tensor of the type and on the device of the model's numbers; programs may hold all as buffers."""
    numbers = (value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point())
    return next(numbers, torch.empty(0))


def random_batch(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal values, the same for the same shape everywhere."""
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device=like.device, dtype=like.dtype)
