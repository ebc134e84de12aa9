"""Weights without a name are told their architecture, by an index of names and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from blurify.errors import ArchitectureError
from blurify.files import build_architecture, read_model
from blurify.files.guessing import INDEX, Guess, guesses, only, sketch, text_of

TINY = "timm:test_resnet"


def test_the_index_is_small_and_knows_both_libraries() -> None:
    assert INDEX.stat().st_size < 100_000
    state = build_architecture("torchvision:alexnet").state_dict()
    assert "torchvision:alexnet" in [guess.arch for guess in guesses([state])]


@pytest.mark.parametrize("prefix", ["", "module.", "net.backbone."])
def test_the_refusal_names_the_architecture(prefix: str, tiny: nn.Module, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in tiny.state_dict().items()}
    torch.save({"epoch": 1, "net": state, "weights": {"of.classes": torch.ones(3)}}, tmp_path / "w.pt")
    count = len(tiny.state_dict())
    with pytest.raises(ArchitectureError, match=rf"weights of {TINY} \({count} of {count} fit\): add --arch {TINY}"):
        read_model(tmp_path / "w.pt")
    loaded = read_model(tmp_path / "w.pt", arch="auto")
    assert loaded.arch == TINY
    assert loaded.taken.startswith(f"the architecture is {TINY}; ")


def test_another_number_of_classes(tmp_path: Path) -> None:
    torch.save(build_architecture(f"{TINY}?num_classes=7").state_dict(), tmp_path / "w.pt")
    assert read_model(tmp_path / "w.pt", arch="auto").arch == f"{TINY}?num_classes=7"


def test_what_fits_nothing_is_said(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match="fits no architecture of timm or torchvision; name it with --arch"):
        read_model(tmp_path / "w.pt", arch="auto")
    with pytest.raises(ArchitectureError, match=r"name it with --arch timm:NAME, torchvision:NAME"):
        read_model(tmp_path / "w.pt")


def test_architectures_that_compute_different_things_are_not_chosen_between() -> None:
    found = [Guess("timm:a", 3, 3), Guess("timm:b?num_classes=2", 3, 3)]
    assert only(found, Path("w.pt"), lambda names: True) == "timm:a"
    with pytest.raises(ArchitectureError, match=r"fits 2 architectures.*: --arch timm:a or --arch 'timm:b\?num_cla"):
        only(found, Path("w.pt"), lambda names: False)
    assert text_of(found * 3).startswith("these are the weights of timm:a or timm:b?num_classes=2 or timm:a or")


def test_a_sketch_does_not_depend_on_order() -> None:
    shapes = {f"{number}.weight": (number, 3) for number in range(20)}
    assert sketch(shapes) == sketch(dict(reversed(shapes.items())))
