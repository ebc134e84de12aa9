"""Names: the model's own are never taken, and a node has one name in both modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.graph.paths import node_paths
from blurify.tracing import trace


class OwnNames(nn.Module):
    """Has a module where a blur would go, or one of the name of a function."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, 2, 1)
        self.add_module("max_pool2d" if functional else "conv_blur", nn.Conv2d(4, 4, 1))
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        if self.functional:
            return self.max_pool2d(F.max_pool2d(self.stem(x), 2))
        return self.conv_blur(self.conv(self.stem(x)))


@pytest.mark.parametrize("functional", [False, True])
def test_names_that_the_rewrite_wants_are_not_overwritten(functional: bool) -> None:
    model = OwnNames(functional)
    converted = antialias(model)
    assert verify(model, converted).ok
    assert list(converted.state_dict()) == list(model.state_dict())
    assert [d.site for d in converted.meta["blurify"].rewritten] == ["max_pool2d_1" if functional else "conv"]


class OwnAttribute(nn.Module):
    """Has a parameter where a blur would go, and a buffer where the one after it would."""

    def __init__(self) -> None:
        super().__init__()
        self.pool_blur = nn.Parameter(torch.ones(1))
        self.register_buffer("pool_blur_1", torch.ones(1))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x * self.pool_blur + self.pool_blur_1)


def test_parameters_and_buffers_are_not_overwritten() -> None:
    model = OwnAttribute()
    converted = antialias(model, form="graph")
    assert verify(model, converted).ok
    assert "pool_blur_2" in converted._modules


class MorePoolsInTraining(nn.Module):
    """A pool more in training, before the one that both modes have."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            return F.max_pool2d(F.dropout(F.relu(x), 0.1, training=self.training), 2), F.max_pool2d(x, 4).mean()
        return F.max_pool2d(F.dropout(F.relu(x), 0.1, training=self.training), 2)


class AnotherPoolInTraining(nn.Module):
    """Another window in each mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 4, 4) if self.training else F.max_pool2d(x, 2, 2)


class FirstInTraining(nn.Module):
    """The pool that is not in evaluation comes first, which would shift a number."""

    def forward(self, x: Tensor) -> Any:
        extra = F.max_pool2d(x, 4, 4).mean() if self.training else 0
        return F.max_pool2d(x, 2, 2), extra


@pytest.mark.parametrize(
    ("model", "strides"),
    [
        (MorePoolsInTraining(), {"max_pool2d": (2, 2), "max_pool2d_1": (4, 4)}),
        (AnotherPoolInTraining(), {"max_pool2d": (2, 2), "max_pool2d_1": (4, 4)}),
        (FirstInTraining(), {"max_pool2d": (2, 2), "max_pool2d_1": (4, 4)}),
    ],
)
def test_a_site_has_one_name_in_both_modes(model: nn.Module, strides: dict[str, tuple[int, int]]) -> None:
    made = plan(model)
    assert {d.site: d.stride for d in made.rewritten} == strides
    x = torch.randn(2, 3, 32, 32)
    converted = antialias(model, filt_size=1)
    for mode in (True, False):
        torch.manual_seed(0)
        expected = model.train(mode)(x)
        torch.manual_seed(0)
        actual = converted.train(mode)(x)
        torch.testing.assert_close(actual, expected)


def test_a_node_that_both_modes_have_keeps_its_name() -> None:
    traced = trace(MorePoolsInTraining())
    evaluating, training = (node_paths(graph) for graph in traced.graphs)
    assert evaluating.keys() < training.keys()
    assert {"relu", "dropout", "max_pool2d"} <= evaluating.keys()


class ShadowedInput(nn.Module):
    """An argument of the name of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.x(x)


def test_an_argument_does_not_take_a_modules_name() -> None:
    assert [d.site for d in plan(ShadowedInput()).rewritten] == ["x"]
