"""Hooks of pools that are replaced: they run on what takes the pool's place, and do what they did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blurify import antialias, load, save, verify
from blurify.errors import TraceError

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


class LooksAtValues(nn.Module):
    """Cannot be traced whole, so that each layer of it is a part."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 4, 3, padding=1), layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return x if x.mean() > 1e9 else self.layer(x)


LAYERS = [*POOLS, nn.ConvTranspose2d(4, 4, 2, 2)]


@pytest.mark.parametrize("form", [None, "class", "graph"])
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_hooks_of_a_layer_that_is_a_part_run(layer: nn.Module, kind: str, form: str | None) -> None:
    model = LooksAtValues(copy.deepcopy(layer)).eval()
    HOOKS[kind](model.layer)
    x = torch.randn(2, 3, 16, 16)
    one_tap = antialias(model, 1, form=form, example_inputs=x, partial=True, upsample=True)
    torch.testing.assert_close(gradient(one_tap, x), gradient(model, x))
    torch.testing.assert_close(one_tap(x), model(x))
    converted = antialias(model, form=form, example_inputs=x, partial=True, upsample=True)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert not converted(x).allclose(model(x))
    verdict = verify(model, converted, x)
    assert verdict.ok
    assert [shape.site for shape in verdict.shapes] == ["layer.0"]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_that_is_a_part_is_written_and_not_converted_again(layer: nn.Module, tmp_path: Path) -> None:
    model, x = LooksAtValues(copy.deepcopy(layer)).eval(), torch.randn(2, 3, 16, 16)
    converted = antialias(model, example_inputs=x, partial=True, upsample=True)
    save(converted, tmp_path / "module.pt")
    again = load(tmp_path / "module.pt", allow=[f"{__name__}.LooksAtValues"])
    torch.testing.assert_close(again(x), converted(x))
    with pytest.raises(TraceError, match="None of its parts"):
        antialias(converted, example_inputs=x, partial=True, upsample=True)


def arguments(pool: nn.Module) -> dict[str, int]:
    names = ("norm_type", "kernel_size", "output_size")
    return {name: getattr(pool, name) for name in names if hasattr(pool, name)}


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    own = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(own).square().sum(), own)
    return found
