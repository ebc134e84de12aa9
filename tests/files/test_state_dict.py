"""Weights without an architecture: found wherever a checkpoint keeps them, loaded strictly or refused precisely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from blurify.errors import ArchitectureError
from blurify.files import read_model
from blurify.files.checkpoint import find_parts

ARCH = "timm:test_resnet"


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "model_state_dict", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_found_in_every_holder_and_freed_of_prefixes(
    holder: str | None, prefix: str, tiny: nn.Module, picture: torch.Tensor, tmp_path: Path
) -> None:
    weights = {prefix + name: value for name, value in tiny.state_dict().items()}
    optimizer = torch.optim.SGD(tiny.parameters(), momentum=0.9).state_dict()
    torch.save(weights if holder is None else {"epoch": 1, "optimizer": optimizer, holder: weights}, tmp_path / "w.bin")
    loaded = read_model(tmp_path / "w.bin", arch=ARCH)
    assert (loaded.form, loaded.arch, loaded.path) == ("state_dict", ARCH, tmp_path / "w.bin")
    assert torch.equal(loaded.model(picture), tiny(picture))


def test_a_checkpoint_may_hold_the_module_itself(tiny: nn.Module, picture: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": tiny}, tmp_path / "last.pt")
    loaded = read_model(tmp_path / "last.pt")
    assert loaded.form == "module"
    assert torch.equal(loaded.model(picture), tiny(picture))


@pytest.mark.parametrize("content", [None, [], {}, {"a": 1}, {1: torch.zeros(1)}, {"model": {"lr": 0.1}}])
def test_what_is_no_state_dict(content: Any) -> None:
    assert find_parts(content) == []


def test_the_precision_of_the_file_is_kept(tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny.bfloat16().state_dict(), tmp_path / "w.pt")
    loaded = read_model(tmp_path / "w.pt", arch=ARCH).model
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}


def test_missing_and_unexpected_names_are_counted_and_the_first_shown(tiny: nn.Module, tmp_path: Path) -> None:
    weights = tiny.state_dict()
    for name in list(weights)[:4]:
        weights["my." + name] = weights.pop(name)
    torch.save(weights, tmp_path / "w.pt")
    first = list(tiny.state_dict())[:3]
    with pytest.raises(ArchitectureError) as raised:
        read_model(tmp_path / "w.pt", arch=ARCH)
    assert str(raised.value) == (
        f"{tmp_path / 'w.pt'} does not fit {ARCH}: 4 missing ({', '.join(first)}, ...), "
        f"4 unexpected ({', '.join('my.' + name for name in first)}, ...); "
        "name the architecture the weights were saved from with --arch."
    )


def test_another_number_of_classes_is_recognised(tmp_path: Path) -> None:
    torch.save(read_model(f"{ARCH}?num_classes=7").model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ArchitectureError) as raised:
        read_model(tmp_path / "w.pt", arch=f"{ARCH}?num_classes=9&in_chans=3")
    message = str(raised.value)
    assert "fc.bias has shape (7,) in the file and (9,) in the model" in message
    assert message.endswith(f"try --arch '{ARCH}?in_chans=3&num_classes=7'.")


def test_other_shapes_are_shown_without_a_guess(tmp_path: Path) -> None:
    torch.save(read_model(f"{ARCH}?in_chans=1").model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ArchitectureError) as raised:
        read_model(tmp_path / "w.pt", arch=ARCH)
    message = str(raised.value)
    assert "(16, 1, 3, 3) in the file and (16, 3, 3, 3) in the model" in message
    assert "num_classes" not in message
