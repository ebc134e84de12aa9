"""A `.pt2` runs without blurify, on batches and sizes that it was not exported with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import FileError
from blurify.files.program import save_program
from tests.conftest import randomize_statistics, relative_error

FRESH = """
import sys
sys.modules["blurify"] = None
import torch
x = torch.load("x.pt")
torch.save(torch.export.load("model.pt2").module()(x), "y.pt")
"""


def run_fresh(folder: Path, x: Tensor) -> Tensor:
    torch.save(x, folder / "x.pt")
    subprocess.run([sys.executable, "-c", FRESH], cwd=folder, check=True, timeout=200)
    result: Tensor = torch.load(folder / "y.pt")
    return result


@pytest.mark.parametrize(("keep_class", "size"), [(False, (96, 96)), (True, (99, 83))])
def test_a_program_runs_without_blurify(keep_class: bool, size: tuple[int, int], tmp_path: Path) -> None:
    model = randomize_statistics(timm.create_model("test_resnet")).eval()
    converted = antialias(model, keep_class=keep_class)
    dynamic = size != (96, 96)
    save_program(converted, tmp_path / "model.pt2", torch.randn(1, 3, 96, 96), dynamic_size=dynamic)
    x = torch.randn(3, 3, *size)
    with torch.no_grad():
        assert relative_error(converted(x), run_fresh(tmp_path, x).detach()) < 1e-4


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"^Fixed cannot be exported for batches of any length: .*\.pt2\.$"):
        save_program(Fixed(), tmp_path / "model.pt2", torch.randn(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []
