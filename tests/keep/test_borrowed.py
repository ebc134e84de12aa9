"""The converted copy runs its own modules, whatever was put in the place of the original's methods."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import PlanError

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A strided conv in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(self.stem(x))
        return result


def compiled(model: nn.Module) -> None:
    model.compile(backend="eager")


def compiled_after(model: nn.Module) -> None:
    model(X)
    model.compile(backend="eager")
    model(X)


def own_method(model: Any) -> None:
    model.forward = MethodType(Net.forward, model)


def of_a_block(model: Any) -> None:
    model.block.forward = MethodType(nn.Sequential.forward, model.block)


def partial_of_own(model: Any) -> None:
    model.block.forward = functools.partial(MethodType(nn.Sequential.forward, model.block))


def closure(model: Any) -> None:
    forward = model.block.forward
    model.block.forward = lambda x: forward(x)


def wrapped_twice(model: Any) -> None:
    forward = functools.partial(model.block.forward)

    @functools.wraps(forward.func)
    def call(x: Tensor, then: tuple[Any, ...] = (forward,)) -> Any:
        return then[0](x)

    model.block.forward = call


def class_of_its_own(model: Any) -> None:
    forward = model.block.forward
    model.block.__class__ = type("Block", (nn.Sequential,), {"forward": lambda self, x: forward(x)})


@pytest.mark.parametrize("change", [compiled, compiled_after, own_method])
def test_a_copy_runs_its_own_modules(change: Callable[[nn.Module], None]) -> None:
    model = Net().eval()
    expected = antialias(model, form="graph")(X)
    change(model)
    kept = antialias(model, form="class")
    assert type(kept) is Net
    assert kept._compiled_call_impl is None
    torch.testing.assert_close(kept(X), expected)
    assert (model(X) - expected).abs().max() > 1e-3


def test_a_compiled_list_of_layers_is_converted() -> None:
    model = nn.Sequential(*Net().children()).eval()
    expected = antialias(model, form="graph")(X)
    compiled(model)
    torch.testing.assert_close(antialias(model, form="class")(X), expected)


@pytest.mark.parametrize("change", [of_a_block, partial_of_own])
def test_methods_of_the_model_are_copied_with_it(change: Callable[[nn.Module], None]) -> None:
    model = Net().eval()
    expected = antialias(model, form="graph")(X)
    change(model)
    torch.testing.assert_close(antialias(model, form="class")(X), expected)


@pytest.mark.parametrize("change", [closure, wrapped_twice, class_of_its_own])
def test_what_would_run_the_original_is_refused(change: Callable[[nn.Module], None]) -> None:
    model = Net().eval()
    expected = antialias(model, form="graph")(X)
    change(model)
    with pytest.raises(PlanError, match="'block' was replaced by a function that calls modules of this very object"):
        antialias(model, form="class")
    torch.testing.assert_close(antialias(model, form="auto")(X), expected)


def test_a_copy_of_a_compiled_result_is_its_own() -> None:
    kept = antialias(Net().eval(), form="class")
    kept.block[2].compile(backend="eager")
    twin = copy.deepcopy(kept)
    assert twin.block[2]._compiled_call_impl is None
