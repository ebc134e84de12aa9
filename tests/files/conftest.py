from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn


class RunsACommand:
    """Unpickling an instance without care runs `touch FILE`."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def runs_a_command() -> type[RunsACommand]:
    return RunsACommand
