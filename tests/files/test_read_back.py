"""What was written is read back and run before it gets its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blurify
from blurify.errors import FileError
from blurify.files import read_back
from blurify.files.formats import FORMATS, Format, SaveOptions

ARCH = "timm:test_resnet"


def target(folder: Path, form: Format) -> Path:
    return folder / f"out{form.suffix}"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_back(name: str, tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    form, converted = FORMATS[name], blurify.antialias(tiny)
    _, row = form.write_proved(converted, target(tmp_path, form), SaveOptions(ARCH, picture))
    assert row is not None
    assert row.state == "ok", row.text
    assert "read back and run, differs from the converted model by" in row.text
    assert [path.name for path in tmp_path.iterdir()] == [f"out{form.suffix}"]


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1000)


@pytest.mark.parametrize("name", ["native", "module", "torchscript"])
@pytest.mark.parametrize("wrong", [lambda *_: Other(), lambda *_: nn.Conv2d(1, 1, 1)], ids=["other", "crash"])
def test_what_gives_something_else_is_not_written(
    name: str, wrong: Any, tiny: nn.Module, picture: Tensor, tmp_path: Path
) -> None:
    form, converted = replace(FORMATS[name], read=wrong), blurify.antialias(tiny)
    with pytest.raises(FileError, match=r"^The file failed its proof: .*; nothing was written, so name"):
        form.write_proved(converted, target(tmp_path, form), SaveOptions(ARCH, picture))
    assert list(tmp_path.iterdir()) == []


AVERAGES = {
    "a window above the filter": (nn.AvgPool2d(5, 3), {}),
    "half of it": (nn.AvgPool2d(2), {"strength": 0.5}),
    "one tap": (nn.AvgPool2d(2), {"filt_size": 1}),
    "powers": (nn.LPPool2d(2, 5, 3), {}),
    "padding not counted": (nn.AvgPool2d(5, 3, 2, count_include_pad=False), {}),
    "ceil_mode": (nn.AvgPool2d(5, 3, 1, ceil_mode=True), {}),
    "own divisor": (nn.AvgPool2d(3, 2, divisor_override=5), {}),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_dense_averages_in_onnx(name: str, tmp_path: Path) -> None:
    pool, options = AVERAGES[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), pool, nn.Conv2d(4, 4, 1)).eval()
    x = torch.randn(1, 3, 33, 32)
    converted = blurify.antialias(model, **options)
    _, row = FORMATS["onnx"].write_proved(converted, tmp_path / "m.onnx", SaveOptions(example=x))
    assert row is not None
    assert row.state == "ok", row.text


@pytest.mark.parametrize("padding", [0, 1])
def test_an_average_that_is_no_site_keeps_its_divisor_in_onnx(padding: int, tmp_path: Path) -> None:
    pool = nn.AvgPool2d(3, 1, padding, divisor_override=5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), pool, nn.MaxPool2d(2)).eval()
    example = torch.randn(1, 3, 15, 16)
    _, row = FORMATS["onnx"].write_proved(blurify.antialias(model), tmp_path / "m.onnx", SaveOptions(example=example))
    assert row is not None
    assert row.state == "ok", row.text


def test_without_onnxruntime_it_is_skipped_and_said(
    tiny: nn.Module, picture: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(read_back, "import_module", missing)
    row = read_back.read_back(read_back.read_onnx, tiny, tmp_path / "x", None, read_back.calls_for(picture, False))
    assert row.state == "skipped"
    assert row.text == "onnxruntime, which runs ONNX files, is not installed"


def test_a_batch_that_the_model_does_not_take_is_not_tried(tmp_path: Path) -> None:
    class One(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(1, 3, 8, 8))

    model = One(3, 4, 3)
    calls = read_back.calls_for(torch.randn(1, 3, 8, 8), False)
    assert len(calls) == 2
    assert read_back.read_back(lambda *_: model, model, tmp_path, None, calls).state == "ok"
    assert read_back.read_back(lambda *_: model, model, tmp_path, None, calls[1:]).state == "skipped"
