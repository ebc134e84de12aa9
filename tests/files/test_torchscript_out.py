"""A TorchScript trace runs without blurify, and is refused where it decides by the size of its batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import BlurifyError, FileError
from blurify.files.torchscript_out import save_torchscript
from tests.conftest import randomize_statistics, relative_error

FRESH = """
import sys, warnings
sys.modules["blurify"] = None
warnings.simplefilter("ignore")
import torch
with torch.no_grad():
    torch.save(torch.jit.load("model.torchscript")(torch.load("x.pt")), "y.pt")
"""


def test_a_trace_runs_without_blurify(tmp_path: Path) -> None:
    model = randomize_statistics(timm.create_model("test_resnet")).eval()
    converted = antialias(model)
    save_torchscript(converted, tmp_path / "model.torchscript", torch.randn(1, 3, 64, 64), dynamic_size=True)
    x = torch.randn(3, 3, 71, 90)
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", FRESH], cwd=tmp_path, check=True, timeout=200)
    with torch.no_grad():
        assert relative_error(converted(x), torch.load(tmp_path / "y.pt")) < 1e-4


class ByBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 2 else x


class BySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[-1] == 8 else x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no\ntrace")


@pytest.mark.parametrize(
    ("model", "dynamic", "message"),
    [
        (
            ByBatch(),
            False,
            r"^ByBatch cannot be written as TorchScript for batches of any length, since .* by the size\.$",
        ),
        (BySize(), True, r"^BySize cannot be written as TorchScript for batches and images of any size, since"),
        (Raises(), False, r"^Raises cannot be written as TorchScript: no trace; write a \.pt2 instead\.$"),
    ],
)
def test_what_a_trace_cannot_keep_leaves_nothing(model: nn.Module, dynamic: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=message):
        save_torchscript(model, tmp_path / "model.torchscript", torch.randn(1, 3, 8, 8), dynamic_size=dynamic)
    assert list(tmp_path.iterdir()) == []


def test_a_torch_without_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.jit, "trace")
    with pytest.raises(BlurifyError, match=r"cannot write TorchScript any more; write a \.pt2 instead"):
        save_torchscript(nn.ReLU(), tmp_path / "model.torchscript", torch.randn(1, 3, 8, 8))
