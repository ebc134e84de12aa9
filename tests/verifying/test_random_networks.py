"""Random small networks, converted in both forms: whatever they are made of, all proofs hold."""

from __future__ import annotations

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


class Head(nn.Module):
    """Outputs of several dtypes, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.fc(x.mean((2, 3))), "maps": [x.double(), None]}


def stage(draw: Any) -> list[nn.Module]:
    kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "lp", "residual", "excite", "gate", "dropout"]))
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
    made = {"lp": lambda: nn.LPPool2d(2, 2), "excite": Excite, "gate": Gate, "dropout": lambda: nn.Dropout2d(0.3)}
    return [made[kind]()]  # type: ignore[no-untyped-call]


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
