"""Weights in the forms that people have them, from the command line."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import blurify

ARCH = "timm:test_resnet"


def test_safetensors_in_and_out(run, tiny: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "w.safetensors")
    result = run("w.safetensors", "--arch", ARCH, "-o", "out.safetensors")
    assert result.exit_code == 0, result.output
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(blurify.load(tmp_path / "out.safetensors")(x), blurify.antialias(tiny)(x), atol=1e-6)
    again = run("out.safetensors", "--no-verify")
    assert "already antialiased. Nothing was written." in again.stdout


@pytest.mark.parametrize("name", ["net", "local-dir:net", "."])
def test_a_folder_is_converted_beside_itself(
    run, name: str, tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm.models.save_for_hf(tiny, tmp_path / "net")
    before = sorted((tmp_path / "net").iterdir())
    if name == ".":
        monkeypatch.chdir(tmp_path / "net")
    result = run(name, "--no-verify")
    assert result.exit_code == 0, result.output
    assert sorted((tmp_path / "net").iterdir()) == before
    assert blurify.load(tmp_path / "net.blur4.pt")


def test_averaged_weights_and_what_was_taken(run, tiny: nn.Module, tmp_path: Path) -> None:
    ema = copy.deepcopy(tiny)
    nn.init.ones_(ema.fc.bias)
    named = {f"model.{name}": value for name, value in tiny.state_dict().items()}
    content = {"state_dict": named, "model_ema": ema.state_dict(), "optimizer": torch.optim.Adam(tiny.parameters())}
    torch.save({**content, "optimizer": content["optimizer"].state_dict()}, tmp_path / "last.ckpt")
    result = run("last.ckpt", "--arch", ARCH, "--no-verify", "-o", "last.pt")
    assert result.exit_code == 0, result.output
    assert result.stderr == "Note: the weights are those under 'state_dict' and named 'model.*'.\n"
    result = run("last.ckpt", "--arch", ARCH, "--no-verify", "-o", "ema.pt", "--ema")
    assert result.stderr == "Note: the weights are those under 'model_ema'.\n"
    assert torch.equal(blurify.load(tmp_path / "last.pt").fc.bias, tiny.fc.bias)
    assert torch.equal(blurify.load(tmp_path / "ema.pt").fc.bias, torch.ones(1000))


@pytest.mark.parametrize(("limit", "code"), [("1KB", 1), ("100k", 1), ("2GB", 0), ("1GiB", 0)])
def test_a_limit_of_size(run, limit: str, code: int, tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "w.pt")
    result = run("plan", "w.pt", "--arch", ARCH, "--max-size", limit)
    assert result.exit_code == code, result.output
    assert ("that --max-size allows" in result.stderr) == bool(code)


def test_what_was_not_named_cannot_be_written_as_safetensors(run, tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "m.pt")
    result = run("m.pt", "-o", "out.safetensors", "--no-verify")
    assert result.exit_code == 1
    assert "The name of the model's architecture is not known, which a recipe (--format safe" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()
