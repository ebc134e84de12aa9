"""The table of formats: a name or a suffix tells which, and both together must agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import blurify
from blurify.cli.options import FORMAT_NAMES
from blurify.errors import ArgumentError
from blurify.files.formats import FORMATS, SaveOptions, choose_format, fitting_format


def test_the_command_line_offers_the_table() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("a.onnx", None, "onnx"),
        ("a.PT2", None, "pt2"),
        ("a.pt", None, None),
        ("a.bin", None, None),
        (None, None, None),
        ("a.torchscript", None, "torchscript"),
        ("a.pt", "torchscript", "torchscript"),
        ("a.pt", "native", "native"),
        ("a.pth", "module", "module"),
        ("a.onnx", "onnx", "onnx"),
        # Nobody's suffix: as the user says.
        ("a", "onnx", "onnx"),
        (None, "pt2", "pt2"),
    ],
)
def test_a_name_or_a_suffix_tells(path: str | None, name: str | None, expected: str | None) -> None:
    found = choose_format(None if path is None else Path(path), name)
    assert (found.name if found else None) == expected


@pytest.mark.parametrize(("path", "name", "claiming"), [("a.onnx", "pt2", "onnx"), ("a.pt", "onnx", "native")])
def test_a_suffix_of_another_format_is_refused(path: str, name: str, claiming: str) -> None:
    message = (
        rf"The output {path} is named as one of --format {claiming}, but --format {name} is asked for; name it \*\."
    )
    with pytest.raises(ArgumentError, match=message):
        choose_format(Path(path), name)


def test_a_recipe_needs_a_name_and_a_module_does_not(tiny: nn.Module, tmp_path: Path) -> None:
    converted, path = blurify.antialias(tiny), tmp_path / "a.pt"
    with pytest.raises(ArgumentError, match=r"is not known, .*, or write --format module\."):
        fitting_format(FORMATS["native"], None)
    FORMATS["module"].write(converted, path, SaveOptions("timm:test_resnet"))
    assert isinstance(torch.load(path, weights_only=False), nn.Module)
    assert [fitting_format(None, arch).name for arch in (None, "timm:test_resnet")] == ["module", "native"]


def test_a_program_needs_an_example(tiny: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="recorded from an example"):
        FORMATS["pt2"].write(tiny, tmp_path / "a.pt2", SaveOptions())
