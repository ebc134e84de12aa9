"""What a model does in place is done in place: another name of the same tensor sees it."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.tracing import trace
from tests.conftest import run
from tests.core.test_forms import Calls


def iadd(x: Tensor) -> Tensor:
    x += 1
    return x


def isub(x: Tensor) -> Tensor:
    x -= 1
    return x


def imul(x: Tensor) -> Tensor:
    x *= 3
    return x


def itruediv(x: Tensor) -> Tensor:
    x /= 3
    return x


def ipow(x: Tensor) -> Tensor:
    x **= 2
    return x


def method(x: Tensor) -> Tensor:
    return x.mul_(3)


def relu_told(x: Tensor) -> Tensor:
    return nn.functional.relu(x, True)


IN_PLACE = [iadd, isub, imul, itruediv, ipow, method]


class Aliased:
    """Gives a tensor two names, and changes it under one."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change = change

    def __call__(self, x: Tensor, c: nn.Module) -> Tensor:
        y = x
        x = self.change(x)
        return c(x) * y.mean()


def aliased(change: Callable[[Tensor], Tensor]) -> nn.Module:
    model = Calls(Aliased(change))
    model.inner = nn.Conv2d(4, 4, 3, 2, 1)
    return model.eval()


@pytest.mark.parametrize("change", IN_PLACE)
def test_another_name_sees_the_change(change: Callable[[Tensor], Tensor]) -> None:
    model, x = aliased(change), torch.randn(2, 3, 16, 16)
    converted = antialias(model, form="graph")
    assert converted.meta["front_end"] == "torch.fx"
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(run(twin, x), run(converted, x))
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, x), run(converted, x))


@pytest.mark.parametrize("change", [iadd, isub, imul, itruediv, ipow])
def test_a_blur_lands_behind_a_change_in_place_by_a_number(change: Callable[[Tensor], Tensor]) -> None:
    model, x = Calls(lambda x, c: change(c(x)).relu()), torch.randn(2, 3, 17, 16)
    model.inner = nn.Conv2d(4, 4, 3, 2)
    converted = antialias(model)
    assert [d.landing for d in converted.meta["blurify"].rewritten] == ["relu"]
    assert verify(model, converted, x).ok


def test_a_residual_sum_in_place_stays_in_place_and_keeps_its_name() -> None:
    import torchvision

    nodes = [n for n in trace(torchvision.models.resnet18()).eval_graph.nodes if n.target is operator.iadd]
    assert [n.meta["path"] for n in nodes] == [f"layer{i}.{j}.add" for i in range(1, 5) for j in range(2)]


def test_numbers_are_counted_as_before() -> None:
    def function(x: Tensor, c: nn.Module) -> Tensor:
        rows = x.shape[2]
        rows += 1
        rows *= 2
        return c(x).sum((2, 3)) * rows

    model, x = Calls(function), torch.randn(2, 3, 16, 16)
    model.inner = nn.Conv2d(4, 4, 3, 2)
    assert verify(model, antialias(model), x).ok


@pytest.mark.parametrize("change", [method, torch.relu_, nn.ReLU(inplace=True), relu_told])
def test_blurs_of_a_tensor_that_changes_between_them_are_not_shared(change: Callable[[Tensor], Tensor]) -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.one, self.two = nn.AvgPool2d(2), nn.AvgPool2d(2)
            self.change = change

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            first = self.one(x)
            self.change(x)
            return first - 2 * self.two(x)

    model, x = Changes().eval(), torch.randn(2, 3, 16, 16)
    plain, optimized = antialias(model, optimize=False), antialias(model)
    assert torch.equal(run(plain, x), run(optimized, x))
    assert verify(model, optimized, x).ok
