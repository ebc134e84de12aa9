"""One op, every form: module, function, aten operator; positional, keyword and defaulted arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import StdConv2d
from timm.models import resnetv2
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.errors import TraceError
from blurify.sites import Reason
from blurify.tracing import trace
from tests.conftest import randomize_statistics, run, tiered


class Calls(nn.Module):
    """A stem, then any function of its output."""

    def __init__(self, function: Callable[[Tensor, nn.Module], Tensor], axes: int = 2) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
        self.stem = conv(3, 4, 1)
        self.inner = conv(4, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.stem(x), self.inner)


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Any], Tensor], nn.Module | None]] = {
    "max positional": (lambda x, c: F.max_pool2d(x, 3, 2, 1, 1, True), nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True)),
    "max keyword": (lambda x, c: F.max_pool2d(input=x, kernel_size=3, stride=2), nn.MaxPool2d(3, 2)),
    "max defaulted": (lambda x, c: F.max_pool2d(x, (2, 1)), nn.MaxPool2d((2, 1))),
    "torch.max_pool2d": (lambda x, c: torch.max_pool2d(x, 2), nn.MaxPool2d(2)),
    "max with unused indices": (lambda x, c: F.max_pool2d(x, 2, return_indices=True)[0], nn.MaxPool2d(2)),
    "aten max": (lambda x, c: torch.ops.aten.max_pool2d.default(x, [2, 2], [2, 2]), nn.MaxPool2d(2)),
    "aten max pair": (
        lambda x, c: torch.ops.aten.max_pool2d_with_indices.default(x, [3, 3], [2, 2])[0],
        nn.MaxPool2d(3, 2),
    ),
    "avg positional": (lambda x, c: F.avg_pool2d(x, 3, 2, 1, True, False), nn.AvgPool2d(3, 2, 1, True, False)),
    "avg keyword": (
        lambda x, c: F.avg_pool2d(x, kernel_size=2, divisor_override=3),
        nn.AvgPool2d(2, divisor_override=3),
    ),
    "aten avg": (lambda x, c: torch.ops.aten.avg_pool2d.default(x, [2, 2]), nn.AvgPool2d(2)),
    "lp positional": (lambda x, c: F.lp_pool2d(x, 2, 3, 2, True), nn.LPPool2d(2, 3, 2, ceil_mode=True)),
    "lp keyword": (lambda x, c: F.lp_pool2d(x, norm_type=4, kernel_size=(3, 2)), nn.LPPool2d(4, (3, 2))),
    "lp infinite": (lambda x, c: F.lp_pool2d(x, math.inf, 2), nn.LPPool2d(math.inf, 2)),
    "lp negative": (lambda x, c: F.lp_pool2d(x, -math.inf, 3, 2), nn.LPPool2d(-math.inf, 3, 2)),
    "conv": (lambda x, c: F.conv2d(x, c.weight, c.bias, 2, 1).relu(), None),
    "conv keyword": (lambda x, c: F.conv2d(x, weight=c.weight, stride=(1, 2), padding="valid"), None),
    "aten conv": (lambda x, c: torch.ops.aten.conv2d.default(x, c.weight, c.bias, [2, 2], [1, 1]), None),
    "aten convolution": (
        lambda x, c: torch.ops.aten.convolution.default(x, c.weight, c.bias, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
        None,
    ),
    "computed weight": (lambda x, c: F.conv2d(x, c.weight / c.weight.std(), stride=2), None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_forms(name: str) -> None:
    function, module = FUNCTIONS[name]
    model = Calls(function)
    x = torch.randn(2, 3, 21, 18)
    assert len(plan(model).decisions) == len(plan(model).rewritten) == 1
    converted = antialias(model)
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    assert verdict.identity_error <= 1e-6
    assert not torch.equal(run(converted, x), run(model, x))
    assert set(converted.state_dict()) == set(model.state_dict())
    if module is not None:
        twin = nn.Sequential(nn.Conv2d(3, 4, 1), module)
        twin[0].load_state_dict(model.stem.state_dict())
        assert torch.equal(run(antialias(twin), x), run(converted, x))


@pytest.mark.parametrize("axes", [1, 3])
def test_other_ranks(axes: int) -> None:
    conv, pool, average, power = {
        1: (F.conv1d, F.max_pool1d, F.avg_pool1d, F.lp_pool1d),
        3: (F.conv3d, F.max_pool3d, F.avg_pool3d, F.lp_pool3d),
    }[axes]
    for function in (
        lambda x, c: conv(x, c.weight, c.bias, 2, 1).relu(),
        lambda x, c: pool(x, 3, 2, 1),
        lambda x, c: average(x, 2),
        lambda x, c: power(x, 2, 3, 2),
    ):
        model = Calls(function, axes)
        assert len(plan(model).rewritten) == 1
        x = torch.randn((2, 3) + (9,) * axes)
        assert verify(model, antialias(model), x).ok


def test_inplace_with_a_functional_pool_leaves_the_model() -> None:
    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(x, 2)

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Pool())
    before = [name for name, _ in model.named_modules()]
    antialias(model, inplace=True)
    assert [name for name, _ in model.named_modules()] == before


REFUSED: dict[str, tuple[Callable[[Tensor, Any], Tensor], Reason]] = {
    "indices in a pair": (lambda x, c: F.max_pool2d(x, 2, return_indices=True), Reason.RETURNS_INDICES),
    "window computed from a size": (lambda x, c: F.avg_pool2d(x, x.shape[-1] // 4), Reason.DYNAMIC),
    "stride computed from a size": (lambda x, c: F.conv2d(x, c.weight, stride=x.shape[-1] // 4), Reason.DYNAMIC),
    "lp window computed": (lambda x, c: F.lp_pool2d(x, 2, x.shape[-1] // 4), Reason.DYNAMIC),
    "max window computed": (lambda x, c: F.max_pool2d(x, kernel_size=x.shape[-1] // 4), Reason.DYNAMIC),
    "a stored blur": (
        lambda x, c: F.conv2d(x, c.blur.expand(4, 1, 3, 3), stride=2, groups=4),
        Reason.ALREADY_ANTIALIASED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_forms(name: str) -> None:
    function, reason = REFUSED[name]
    model = Calls(function)
    taps = torch.tensor([1.0, 2.0, 1.0])
    model.inner.register_buffer("blur", torch.outer(taps, taps).div(16)[None, None])
    assert [d.reason for d in plan(model).decisions] == [reason]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: F.max_pool2d(x, 3, 1),
        lambda x, c: F.lp_pool2d(x, 2, 3, 1),
        lambda x, c: F.conv2d(x, c.weight),
        lambda x, c: F.adaptive_avg_pool2d(x, 1),
        lambda x, c: x.mean((2, 3)),
    ],
)
def test_what_does_not_subsample_is_no_site(function: Callable[[Tensor, Any], Tensor]) -> None:
    assert not plan(Calls(function)).decisions


LANDINGS: dict[str, tuple[Callable[[Tensor, Any], Tensor], str]] = {
    "batch_norm": (lambda x, c: F.batch_norm(x, c.m, c.v, training=False), "batch_norm"),
    "group_norm": (lambda x, c: F.group_norm(x, 2), "group_norm"),
    "scalar": (lambda x, c: (x * 2 + 1).clamp(min=0), "clamp"),
    "per channel": (lambda x, c: x * c.m.view(1, -1, 1, 1), "mul"),
    "indexed": (lambda x, c: x * c.g[:, None, None] + c.g[None, ..., None, None], "add"),
    "unsqueezed": (lambda x, c: x * torch.unsqueeze(c.g, 1).unsqueeze(-1), "mul"),
    "viewed and indexed": (lambda x, c: x * c.g.view(4, 1)[:, :, None], "mul"),
    "indexed along a row": (lambda x, c: x * c.g[None, None, :], "conv2d"),
    "unsqueezed along a row": (lambda x, c: x * c.g.unsqueeze(0), "conv2d"),
    "picked": (lambda x, c: x * c.g[:4], "conv2d"),
    "the only one picked": (lambda x, c: x * c.g[:1], "mul"),
    "prelu": (lambda x, c: F.prelu(x, c.g).relu(), "relu"),
    "aten prelu": (lambda x, c: torch.ops.aten.prelu.default(x, c.g), "prelu"),
    "prelu of a computed weight": (lambda x, c: F.prelu(x, x.mean((0, 2, 3))), "conv2d"),
    "per position": (lambda x, c: x * c.p, "conv2d"),
    "per row": (lambda x, c: x + c.m, "conv2d"),
    "softmax": (lambda x, c: x.softmax(-1), "conv2d"),
    "size": (lambda x, c: x.relu() * x.shape[-1], "conv2d"),
    "branch": (lambda x, c: x.relu() + F.avg_pool2d(x, 3, 1, 1), "conv2d"),
    "gate": (lambda x, c: x * x.mean((2, 3), keepdim=True).sigmoid(), "conv2d"),
    "transpose": (lambda x, c: x.transpose(2, 3).relu(), "conv2d"),
    "layer_norm": (lambda x, c: F.layer_norm(x, x.shape[-1:]), "conv2d"),
}


@pytest.mark.parametrize("name", LANDINGS)
def test_landing_of_function_forms(name: str) -> None:
    """Norms and activations are crossed as functions too; positions, branches and sizes are not."""
    tail, landing = LANDINGS[name]
    model = Calls(lambda x, c: tail(F.conv2d(x, c.weight, c.bias, 2), c))
    model.inner.register_buffer("m", torch.rand(4))
    model.inner.register_buffer("v", torch.rand(4))
    model.inner.register_parameter("g", nn.Parameter(torch.rand(4)))
    model.inner.register_buffer("p", torch.rand(1, 1, 4, 4))
    (decision,) = plan(model).rewritten
    assert decision.landing == landing
    assert bool(decision.statistics) == (name == "group_norm")
    verdict = verify(model, antialias(model), torch.randn(1, 3, 10, 10))
    assert verdict.ok, str(verdict)


def test_weight_parametrizations_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
    nn.utils.parametrizations.weight_norm(model[1])
    nn.utils.parametrizations.spectral_norm(model[3])
    made = plan(model)
    assert [d.site for d in made.rewritten] == ["1", "3"]
    converted = antialias(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert verify(model, converted, torch.randn(1, 3, 16, 16)).ok


# A Big Transfer network with a block a stage; `test_nfnet` is the other kind of standardised network.
BIT = {"layers": (1, 1, 1, 1), "channels": (128, 128, 256, 256), "stem_chs": 32, "stem_type": "fixed"}


def make_weight_standardised(name: str) -> nn.Module:
    if name != "small bit":
        return timm.create_model(name)
    return resnetv2.ResNetV2(**BIT, num_classes=10, conv_layer=partial(StdConv2d, eps=1e-8))


@pytest.mark.parametrize(
    "name",
    tiered(
        ["small bit", "test_nfnet", "nf_regnet_b0", "resnetv2_50x1_bit", "tf_efficientnet_cc_b0_4e"],
        *("small bit", "test_nfnet", "tf_efficientnet_cc_b0_4e"),
    ),
)
def test_weight_standardised_and_conditional_convs(name: str) -> None:
    model = randomize_statistics(make_weight_standardised(name)).eval()
    converted = antialias(model, 3)
    assert converted.meta["blurify"].rewritten
    verdict = verify(model, converted, torch.randn(1, 3, 65, 65))
    assert verdict.ok, str(verdict)


def test_a_power_average_pool_is_the_same_through_export() -> None:
    for pool in (nn.LPPool2d(2, 3, 2), nn.LPPool2d(math.inf, 2)):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), pool)
        x = torch.randn(2, 3, 16, 16)
        program = torch.export.export(model, (x,)).module()
        assert [d.kind for d in plan(program).rewritten] == [d.kind for d in plan(model).rewritten]
        torch.testing.assert_close(run(antialias(program), x), run(antialias(model), x))


class ChecksSize(nn.Module):
    """A forward that branches on its input's size, as many detection and transformer models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = randomize_statistics(
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        )

    def forward(self, x: Tensor) -> Tensor:
        for _ in bytes(x.shape[-1] % 2):
            raise ValueError("the width must be even")
        return self.body(x)


def test_size_dependent_control_flow_goes_through_export() -> None:
    model = ChecksSize()
    traced = trace(model)
    assert traced.meta["front_end"] == "torch.export"
    assert "cannot be traced" in traced.meta["refusals"][0]
    converted = antialias(model)
    (decision,) = converted.meta["blurify"].rewritten
    assert decision.site == "body.1"
    assert decision.landing == "body.4"
    assert verify(model, converted, torch.randn(2, 3, 32, 48)).ok
    assert list(converted.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(run(converted, x), run(converted, x))
    converted.train()
    assert not torch.equal(converted(x), converted(x))


class OneSizeOnly(nn.Module):
    """A forward that takes one size, which is not what one would assume, and any batch or batches of one."""

    def __init__(self, batch: int | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (48, 48):
            raise ValueError("wrong size")
        if self.batch is not None and int(x.shape[0]) != self.batch:
            return self.body(x).mean(0, keepdim=True)
        return self.body(x)


def test_a_plan_is_applied_with_inputs() -> None:
    model = OneSizeOnly()
    x = torch.randn(1, 3, 48, 48)
    made = plan(model, example_inputs=x)
    # A check of the input is passed by an input that nobody gives; then there is nothing to compare the graph on.
    assert made.apply(model, form="graph").meta["compared"] == 0
    converted = made.apply(model, form="graph", example_inputs=x)
    assert converted.meta["compared"] == 2
    assert converted.meta["input_shapes"] == ((1, 3, 48, 48),)
    assert verify(model, converted, x).ok
    run(converted, torch.randn(5, 3, 48, 48))


def test_a_batch_that_cannot_vary_is_the_users() -> None:
    model = OneSizeOnly(batch=1)
    x = torch.randn(1, 3, 48, 48)
    converted = antialias(model, example_inputs=x)
    assert verify(model, converted, x).ok


def test_no_front_end() -> None:
    class Values(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum().item() > 0:
                return x.relu()
            return x

    with pytest.raises(TraceError) as caught:
        antialias(Values())
    message = str(caught.value)
    assert "Values cannot be traced" in message
    # Other front-ends meet the same decision, after seconds on a small network and minutes on a large one.
    assert "torch.export" not in message


class TakesMuch(nn.Module):
    """A dict, a keyword-only tensor and an optional mask in; a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, batch: dict[str, Tensor], mask: Tensor | None = None, *, scale: Tensor) -> dict[str, Tensor]:
        x = self.conv(self.stem(batch["image"])).relu() * scale
        return {"map": x if mask is None else x * mask, "image": batch["image"]}


@pytest.mark.parametrize("masked", [False, True])
def test_dicts_and_keyword_arguments(masked: bool) -> None:
    model = TakesMuch()
    inputs: tuple[Any, ...] = ({"image": torch.randn(2, 3, 16, 16)},)
    inputs += (torch.ones(2, 1, 8, 8),) if masked else ()
    kwargs = {"scale": torch.tensor(2.0)}
    converted = antialias(model, example_inputs=inputs, example_kwargs=kwargs)
    assert [d.landing for d in converted.meta["blurify"].rewritten] == ["relu"]
    assert verify(model, converted, inputs, kwargs).ok
    assert converted(*inputs, **kwargs).keys() == {"map", "image"}
