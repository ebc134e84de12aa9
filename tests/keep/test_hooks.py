"""Hooks of pools that are replaced: they run on what takes the pool's place, and do what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from blurify import antialias, verify

HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "output": lambda m: m.register_forward_hook(lambda _, x, y: 2 * y),
    "input": lambda m: m.register_forward_pre_hook(lambda _, args: (args[0] + 1,)),
    "keywords": lambda m: m.register_forward_hook(lambda _, args, kwargs, y: y - 1, with_kwargs=True),
    "gradient": lambda m: m.register_full_backward_hook(lambda _, given, __: tuple(2 * g for g in given)),
}
POOLS = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2), nn.AdaptiveAvgPool2d(4)]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: type(pool).__name__)
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_a_replaced_pool_run(kind: str, pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), type(pool)(**arguments(pool))).eval()
    HOOKS[kind](model[2])
    x = torch.randn(2, 3, 16, 16)
    one_tap = antialias(model, 1, form="class", example_inputs=x)
    assert gradient(one_tap, x).equal(gradient(model, x))
    torch.testing.assert_close(one_tap(x), model(x))
    assert verify(model, antialias(model, form="class", example_inputs=x), x).ok


def arguments(pool: nn.Module) -> dict[str, int]:
    names = ("norm_type", "kernel_size", "output_size")
    return {name: getattr(pool, name) for name in names if hasattr(pool, name)}


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    own = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(own).square().sum(), own)
    return found
