"""Pooling written by hand is seen as the pool that it is, whatever calls it is written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.sites import Kind, Reason
from tests.core.test_forms import Calls

Function = Callable[[Tensor, Any], Tensor]


def blocks(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[3] // 2, 2)


def summed(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


AVERAGE, LARGEST, ROWS = nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AvgPool2d((2, 1))
POOLS: dict[str, tuple[Function, nn.Module]] = {
    "view and mean": (lambda x, c: blocks(x).mean((3, 5)), AVERAGE),
    "torch.reshape and torch.mean": (
        lambda x, c: torch.mean(torch.reshape(x, (x.size(0), 4, x.size(2) // 2, 2, -1, 2)), dim=[3, 5]),
        AVERAGE,
    ),
    "amax": (lambda x, c: blocks(x).amax(dim=(-1, -3)), LARGEST),
    "one mean after the other": (lambda x, c: blocks(x).mean(5).mean(3), AVERAGE),
    "one max after the other": (lambda x, c: blocks(x).max(5)[0].max(dim=3).values, LARGEST),
    "torch.max": (lambda x, c: torch.max(torch.max(blocks(x), 5)[0], dim=3)[0], LARGEST),
    "sum and division": (lambda x, c: blocks(x).sum((3, 5)) / 4, AVERAGE),
    "permuted": (lambda x, c: blocks(x).permute(0, 1, 2, 4, 3, 5).flatten(4).mean(-1), AVERAGE),
    "transposed": (lambda x, c: blocks(x).transpose(3, 4).flatten(-2).mean(-1), AVERAGE),
    "unflatten": (lambda x, c: x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)), AVERAGE),
    "windows": (lambda x, c: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)), AVERAGE),
    "windows that overlap": (lambda x, c: x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2)), nn.MaxPool2d(3, 2)),
    "F.unfold": (lambda x, c: F.unfold(x, 2, stride=2).view(2, 4, 4, 64).mean(2).view(2, 4, 8, 8), AVERAGE),
    "largest of F.unfold": (lambda x, c: F.unfold(x, 2, stride=2).view(2, 4, 4, 64).amax(2).view(2, 4, 8, 8), LARGEST),
    "one axis": (lambda x, c: x.reshape(2, 4, 8, 2, 16).mean(3), ROWS),
    "sum of slices": (lambda x, c: (x[:, :, ::2] + x[:, :, 1::2]) / 2, ROWS),
    "sum of slices from the end": (lambda x, c: (x[..., ::2, :] + x[..., 1::2, :]) * 0.5, ROWS),
    "sum of four slices": (lambda x, c: summed(x), AVERAGE),
    "maximum of slices": (lambda x, c: torch.maximum(x[:, :, ::2], x[:, :, 1::2]), nn.MaxPool2d((2, 1))),
    "torch.max of slices": (lambda x, c: torch.max(x[..., ::2], x[..., 1::2]), nn.MaxPool2d((1, 2))),
    "mean of stacked slices": (lambda x, c: torch.stack([x[:, :, ::2], x[:, :, 1::2]]).mean(0), ROWS),
    "sum of stacked slices": (lambda x, c: torch.stack((x[:, :, ::2], x[:, :, 1::2]), dim=-1).sum(-1) / 2, ROWS),
    "maximum of stacked slices": (
        lambda x, c: torch.stack([x[:, :, ::2], x[:, :, 1::2]], 1).max(dim=1)[0],
        nn.MaxPool2d((2, 1)),
    ),
    "largest of stacked slices": (
        lambda x, c: torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0),
        LARGEST,
    ),
    "sum of a list of slices": (lambda x, c: sum([x[:, :, ::2], x[:, :, 1::2]]) / 2, ROWS),
    "average of a permuted map": (lambda x, c: F.avg_pool2d(x.permute(0, 2, 3, 1), (2, 1)).mT.mT, AVERAGE),
}


def same_as_pool(function: Function, pool: nn.Module, given: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    by_layer = Calls(lambda x, c: pool(x))
    by_layer.load_state_dict(given.state_dict())
    torch.testing.assert_close(antialias(given, example_inputs=x)(x), antialias(by_layer, example_inputs=x)(x))


@pytest.mark.parametrize("name", [name for name in POOLS if "permuted map" not in name])
def test_pools_as_the_layer_does(name: str) -> None:
    function, pool = POOLS[name]
    model, x = Calls(function), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    same_as_pool(function, pool, model, x)
    verdict = verify(model, antialias(model, example_inputs=x), example_inputs=x)
    assert verdict.ok, verdict


@pytest.mark.parametrize(
    "name", ["view and mean", "one max after the other", "F.unfold", "sum of four slices", "mean of stacked slices"]
)
def test_pools_of_exported_programs(name: str) -> None:
    function, pool = POOLS[name]
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    same_as_pool(function, pool, torch.export.export(Calls(function), (x,)).module(), x)


@pytest.mark.parametrize(("how", "pool"), [("mean", AVERAGE), ("max", LARGEST), ("sum", AVERAGE)])
def test_einops(how: str, pool: nn.Module) -> None:
    reduce = pytest.importorskip("einops").reduce
    area = 4 if how == "sum" else 1
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    by_name = Calls(lambda x, c: reduce(x, "b c (h p) (w q) -> b c h w", how, p=2, q=2) / area)
    same_as_pool(by_name.function, pool, by_name, x)


def test_axes_are_followed_through_permutations() -> None:
    (decision,) = plan(Calls(POOLS["average of a permuted map"][0])).rewritten
    assert decision.stride == (2, 1)


def test_plan_names_the_map() -> None:
    made = plan(Calls(POOLS["view and mean"][0]))
    assert "rewrite  4       after mean (a pool of stem, written by hand)" in str(made)
    assert type(made).from_json(made.to_json()) == made


def test_a_second_run_changes_nothing() -> None:
    x = torch.zeros(2, 3, 16, 16)
    for function in (POOLS["view and mean"][0], POOLS["sum of slices"][0], POOLS["amax"][0]):
        once = antialias(Calls(function), example_inputs=x)
        again = plan(once, example_inputs=x)
        assert again.decisions
        assert {d.reason for d in again.decisions} == {Reason.ALREADY_ANTIALIASED}


def test_sums_and_differences_lose_nothing() -> None:
    def haar(x: Tensor, c: Any) -> Tensor:
        a, b = x[:, :, ::2], x[:, :, 1::2]
        return torch.cat([a + b, a - b], 1)

    made = plan(Calls(haar), example_inputs=torch.zeros(2, 3, 16, 16))
    assert {d.reason for d in made.decisions} == {Reason.ALL_PHASES}


UNKNOWN: dict[str, Function] = {
    "positions by index": lambda x, c: x.index_select(2, torch.arange(0, 16, 2)),
    "positions by a tensor": lambda x, c: x[:, :, torch.arange(0, 16, 2)],
    "grid sample": lambda x, c: F.grid_sample(x, torch.zeros(2, 8, 8, 2), align_corners=False),
    "kept dimensions": lambda x, c: blocks(x).mean((3, 5), keepdim=True).view(2, 4, 8, 8),
    "one phase of a view": lambda x, c: blocks(x)[:, :, :, 0, :, 0],
    "deviation": lambda x, c: blocks(x).std((3, 5)),
    "channels last": lambda x, c: x.permute(0, 2, 3, 1).reshape(2, 8, 2, 8, 2, 4).mean((2, 4)),
    "channels too": lambda x, c: x.reshape(2, 2, 2, 8, 2, 8, 2).mean((2, 4, 6)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_rule_knows_is_listed(name: str) -> None:
    (decision,) = plan(Calls(UNKNOWN[name]), example_inputs=torch.zeros(2, 3, 16, 16)).decisions
    assert (decision.kind, decision.reason) == (Kind.OPAQUE, Reason.UNKNOWN_OP)


def test_pooling_channels_is_not_blurred() -> None:
    made = plan(Calls(lambda x, c: F.avg_pool1d(x.flatten(2).transpose(1, 2), 2)))
    assert [d.reason for d in made.decisions] == [Reason.NOT_SPATIAL]


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens @ tokens.mT).softmax(-1) @ tokens


INNOCENT: dict[str, Function] = {
    "global mean": lambda x, c: x.mean((2, 3)),
    "global mean of a view": lambda x, c: x.view(2, 4, -1).mean(-1),
    "head": lambda x, c: x.flatten(1) @ torch.zeros(1024, 32),
    "tokens": lambda x, c: F.linear(x.flatten(2).mT, torch.zeros(2, 4)),
    "attention": lambda x, c: attention(x),
    "channels-last head": lambda x, c: F.linear(x.permute(0, 2, 3, 1), torch.zeros(2, 4)),
    "halves of channels": lambda x, c: torch.cat(x.chunk(2, 1)[::-1], 1),
    "crop": lambda x, c: x[:, :, :8, 4:12],
    "mean over windows": lambda x, c: blocks(x).mean((2, 4)),
    "mean over channels": lambda x, c: x.mean(1, keepdim=True),
    "space to depth": lambda x, c: blocks(x).permute(0, 3, 5, 1, 2, 4).reshape(2, 16, 8, 8),
    "conv over most of a crop": lambda x, c: F.conv2d(x[:, :, :8, :8], torch.zeros(4, 4, 5, 5)),
    "window at stride 1": lambda x, c: F.max_pool2d(x, kernel_size=9, stride=1),
    "exported conv": lambda x, c: torch.ops.aten.conv2d.default(x, torch.zeros(4, 4, 9, 9)),
    "one value, spread out": lambda x, c: x + F.interpolate(F.adaptive_avg_pool2d(x, 1), (16, 16), mode="bilinear"),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_no_false_alarm(name: str) -> None:
    assert not plan(Calls(INNOCENT[name]), example_inputs=torch.zeros(2, 3, 16, 16)).decisions


class Volumes(nn.Module):
    """Halves the first axis of volumes; what comes after it is left to an ellipsis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x[:, :, ::2, ...] + x[:, :, 1::2, ...]) / 2


def test_slices_before_an_ellipsis_are_of_the_axis_that_they_name() -> None:
    (decision,) = plan(Volumes(), example_inputs=torch.randn(1, 2, 8, 6, 6)).rewritten
    assert decision.stride == (2, 1, 1)
