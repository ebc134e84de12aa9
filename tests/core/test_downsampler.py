"""Layers that subsample are made in one place, whatever the op family."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, rules
from blurify.layers import Blur
from blurify.rewriting import rewrite
from blurify.rules import Downsampler
from tests.conftest import run

HOME = Path(rules.__file__).parent
# What only looks at layers that are there.
LOOKS = {"blur.py", "smoothed.py"}


class Net(nn.Module):
    """One site of every family that is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pool, self.average, self.power = nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2)
        self.adaptive = nn.AdaptiveAvgPool2d(2)
        self.grow = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.average(self.pool(self.conv(x)))
        x = F.interpolate(self.grow(x), scale_factor=0.5, mode="bilinear")
        x = F.interpolate(x[..., ::2, ::2], scale_factor=2.0)
        return self.adaptive(self.power(x))  # type: ignore[no-any-return]


class Recorder(Downsampler):
    """Remember the layers that were made."""

    made: tuple[Blur, ...] = ()

    def _sided(self, layer):  # type: ignore[no-untyped-def]
        Recorder.made = (*Recorder.made, layer)
        return super()._sided(layer)


@pytest.mark.parametrize("side", ["published", "centered"])
def test_all_blurs_come_from_it(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "Downsampler", Recorder)
    monkeypatch.setattr(Recorder, "made", ())
    x = torch.rand(1, 3, 64, 64)
    model = Net().eval()
    smooth = antialias(model, 4, stem=True, upsample=True, form="graph", optimize=False, grid=side, example_inputs=x)
    blurs = [layer for layer in smooth.modules() if isinstance(layer, Blur)]
    assert len(blurs) == len(smooth.meta["blurify"].rewritten) == 9
    assert {id(blur) for blur in blurs} <= {id(layer) for layer in Recorder.made}
    assert run(smooth, x).shape == run(model, x).shape


@pytest.mark.parametrize("file", sorted(set(HOME.glob("*.py")) - {HOME / "downsampler.py"}), ids=lambda file: file.stem)
def test_rules_name_no_blurring_layer(file: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.module == "blurify.layers" for alias in node.names}
    assert file.name in LOOKS or names <= {"DENSE_MAX_POOLS", "INDEXED_MAX_POOLS"}
