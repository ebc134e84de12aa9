from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from torch import nn

from blurify.cli.group import cli

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLURIFY_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="blurify")


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()
