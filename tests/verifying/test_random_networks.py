"""Random small networks, converted in both forms: whatever they are made of, all proofs hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.errors import PlanError
from tests.conftest import randomize_statistics

CHANNELS = 4
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Hardswish, lambda: nn.PReLU(CHANNELS), nn.Identity)
NORMS = (lambda: nn.BatchNorm2d(CHANNELS), lambda: nn.GroupNorm(2, CHANNELS), nn.Identity)


class Gate(nn.Module):
    """A gate written out, scaled by a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(CHANNELS, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x) * self.scale


class Residual(nn.Module):
    """A block with a strided shortcut; `freeze` cuts gradients off, as frozen backbones do."""

    def __init__(self, stride: int, freeze: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
        self.shortcut = nn.Conv2d(CHANNELS, CHANNELS, 1, stride)
        self.freeze = freeze

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        y = self.conv2(F.relu(self.norm(self.conv1(x))))
        return F.relu(y + (shortcut.detach() if self.freeze else shortcut))


class Excite(nn.Module):
    """A squeeze-excite, which mixes positions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Moving(nn.Module):
    """A mean that training moves in place, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(CHANNELS))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
            self.steps += 1
        return x - self.mean.view(1, -1, 1, 1)


class Depth(nn.Module):
    """Stochastic depth by random draws of torch; its branch is a conv of stride 1."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.training:
            y = y * (torch.rand(x.shape[0], 1, 1, 1, device=x.device) > 0.5).to(y.dtype)
        return x + y


class Cautious(nn.Module):
    """Asks what its input is, has an argument with a default, and leaves a gradient out."""

    def forward(self, x: Tensor, scale: float = 1.0, *, strict: bool = True) -> Tensor:
        if not isinstance(x, Tensor) or (strict and x.dim() != 4):
            raise TypeError("a batch of maps is wanted")
        assert x.shape[1] == CHANNELS
        with torch.no_grad():
            largest = x.abs().amax((1, 2, 3), keepdim=True)
        return x / (largest + scale)


class Low(nn.Module):
    """A conv in bfloat16 amid the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            y = self.conv(x)
        return y.to(x.dtype)


class Written(nn.Module):
    """A strided conv whose activation is a statement in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(torch.sigmoid(y))
        return y


class Head(nn.Module):
    """Outputs of several dtypes, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.fc(x.mean((2, 3))), "maps": [x.double(), None]}


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "lp": lambda: nn.LPPool2d(2, 2),
    "excite": Excite,
    "gate": Gate,
    "dropout": lambda: nn.Dropout2d(0.3),
    "moving": Moving,
    "depth": Depth,
    "cautious": Cautious,
    "low": Low,
    "written": Written,
}


def stage(draw: Any) -> list[nn.Module]:
    kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "residual", *OTHERS]))
    if kind == "conv":
        kernel, stride, dilation = draw(st.sampled_from([1, 3])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, kernel // 2 * dilation, dilation, bias=draw(st.booleans()))
        return [conv, draw(st.sampled_from(NORMS))(), draw(st.sampled_from(ACTIVATIONS))()]
    if kind == "max":
        return [nn.MaxPool2d(3, 2, 1, ceil_mode=draw(st.booleans()))]
    if kind == "avg":
        return [nn.AvgPool2d(draw(st.integers(2, 5)), 2, 1, count_include_pad=draw(st.booleans()))]
    if kind == "residual":
        return [Residual(draw(st.integers(1, 2)), draw(st.booleans()))]
    return [OTHERS[kind]()]


@st.composite
def networks(draw: Any) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 3)))
    stages = [module for _ in range(draw(st.integers(1, 4))) for module in stage(draw)]
    stem = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, 1, 1), nn.ReLU())
    return randomize_statistics(nn.Sequential(stem, *stages, nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1), nn.ReLU(), Head()))


def prove(model: nn.Module) -> None:
    x = torch.randn(2, 3, 42, 45, generator=torch.Generator().manual_seed(0))
    for form in ("graph", "class"):
        try:
            converted = antialias(model.eval(), form=form)
        except PlanError:  # not every site is a module's
            continue
        verdict = verify(model, converted, x)
        assert verdict.ok, f"{form}: {model}\n{verdict}"
        assert {row.state for row in verdict.rows} == {"ok"}, str(verdict)


FEW = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(networks())
def test_a_few(model: nn.Module) -> None:
    prove(model)


@pytest.mark.slow
@settings(FEW, max_examples=100, derandomize=False)
@given(networks())
def test_many(model: nn.Module) -> None:
    prove(model)
