"""A max pool whose indices are used (SegNet): its maxima are blurred, its indices stay the original's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.layers import BLUR_POOLS, DENSE_MAX_POOLS, INDEXED_MAX_POOLS
from tests.conftest import run

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
UNPOOLS: dict[int, Any] = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}


class SegNet(nn.Module):
    """An encoder and a decoder that puts what is left of the maxima back where these were."""

    def __init__(self, pool: Callable[[Tensor], Any], axes: int = 2) -> None:
        super().__init__()
        conv: Any = CONVS[axes]
        self.down, self.inner, self.up = conv(3, 4, 3, 1, 1), conv(4, 4, 3, 1, 1), conv(4, 2, 3, 1, 1)
        self.pool, self.unpool = pool, UNPOOLS[axes](2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).relu()
        size = x.size()
        x, indices = self.pool(x)
        return self.up(self.unpool(self.inner(x).relu(), indices, output_size=size))


def pair(values: Callable[[Tensor], Tensor], axes: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What an expert would write: the maxima blurred, the indices as they were."""
    return lambda x: (values(x), POOLS[axes](2, return_indices=True)(x)[1])


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "function": (lambda x: F.max_pool2d(x, 2, return_indices=True), 2),
    "function of a pair": (lambda x: F.max_pool2d_with_indices(x, 2), 2),
    "of a sound": (lambda x: F.max_pool1d(x, 2, return_indices=True), 1),
    "of a video": (lambda x: F.max_pool3d(x, 2, 2, return_indices=True), 3),
    "aten": (lambda x: torch.ops.aten.max_pool2d_with_indices.default(x, [2, 2], [2, 2]), 2),
    **{f"module {axes}": (POOLS[axes](2, return_indices=True), axes) for axes in POOLS},
}


@pytest.mark.parametrize("form", ["class", "graph"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_maxima_are_blurred_and_indices_stay(name: str, form: Any) -> None:
    pool, axes = FUNCTIONS[name]
    model = SegNet(pool, axes).eval()
    is_module = isinstance(pool, nn.Module)
    if form == "class" and not is_module:
        pytest.skip("its stride is an argument of a function")
    x = torch.randn((2, 3, *(10, 7, 8)[:axes]))
    converted = antialias(model, form=form, example_inputs=x)
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    dense, blur = DENSE_MAX_POOLS[axes](2, 2), BLUR_POOLS[axes](None)
    expected: Any = copy.deepcopy(model)
    expected._modules.pop("pool", None)
    expected.pool = pair(lambda x: blur(dense(x)), axes)
    torch.testing.assert_close(run(converted, x), run(expected, x))


def test_windows_that_overlap_and_ceil_mode() -> None:
    model, x = SegNet(nn.MaxPool2d(3, 2, 1, ceil_mode=True, return_indices=True)).eval(), torch.randn(2, 3, 12, 14)
    model.unpool = nn.MaxUnpool2d(3, 2, 1)
    assert verify(model, antialias(model, form="graph", example_inputs=x), x).ok


def test_it_can_be_saved_and_exported(tmp_path: Any) -> None:
    model, x = SegNet(FUNCTIONS["module 2"][0]).eval(), torch.randn(2, 3, 12, 12)
    converted = antialias(model, form="graph", example_inputs=x)
    expected = run(converted, x)
    torch.save(converted, tmp_path / "a.pt")
    torch.testing.assert_close(run(torch.load(tmp_path / "a.pt", weights_only=False), x), expected)
    torch.testing.assert_close(torch.export.export(converted, (x,)).module()(x), expected)


@pytest.mark.filterwarnings("ignore:.*jit.script.*deprecated")
@pytest.mark.parametrize("axes", INDEXED_MAX_POOLS)
def test_the_layer_is_scriptable(axes: int) -> None:
    layer, x = INDEXED_MAX_POOLS[axes](3, 2, 1, ceil_mode=True), torch.randn((2, 3) + (9,) * axes)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_the_plan_says_that_it_moves_the_grid() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 3, 1), SegNet(FUNCTIONS["module 2"][0])), torch.randn(1, 3, 16, 16)
    made = plan(model, example_inputs=x)
    assert [decision.landing for decision in made.rewritten] == ["1.getitem"]
    assert [shift.pixels for shift in made.outputs] == [(0.5, 0.5)]
