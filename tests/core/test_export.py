"""The second front-end: what one export leaves behind is nothing to the next, and what reads values is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.files.program import read_program, save_program
from blurify.files.untrusted.exported import _has_small_powers
from blurify.tracing.export import export_once
from blurify.tracing.inputs import Inputs

X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """Keeps the size that it saw last, in a default of its class and in a list, as detection heads do."""

    size: torch.Size | None = None
    points = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), [torch.empty(0)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        if self.training:
            return x
        if self.size != x.shape:
            self.size, (h, w) = x.shape, x.shape[2:]
            self.points = torch.stack(torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij"))
            self.seen[0] = self.points.flatten(1)
        return x[:, :2].flatten(2) * self.seen[0]


def test_exports_leave_no_symbols_behind() -> None:
    model = Keeps()
    found = {**model.__dict__}
    # What the first leaves in an attribute would be a symbol that the second does not know.
    for mode in (True, False):
        program = export_once(model.train(mode), Inputs((X,)), strict=False)
        assert program(X).shape == model(X).shape
        model.__dict__ = {key: value for key, value in model.__dict__.items() if key in found}
        model.seen = [torch.empty(0)]
    model.train()
    export_once(model, Inputs((X,)), strict=False)
    assert {key: value for key, value in model.__dict__.items() if key not in found} == {}
    assert model.seen[0].numel() == 0


class Fills(nn.Module):
    def __init__(self, of_input: bool) -> None:
        super().__init__()
        self.a, self.b, self.up = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Upsample(scale_factor=2)
        self.pool, self.stride, self.of_input = nn.AdaptiveAvgPool2d(4), torch.tensor([2.0, 1.0]), of_input

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 8:
            return x
        y = self.pool(self.up(self.b(F.relu(self.a(x)))))
        value = x.mean().item() if self.of_input else self.stride[0]
        return y.flatten(2) * torch.full((16,), value)


@pytest.mark.parametrize("of_input", [False, True])
def test_a_program_that_reads_a_value_runs(of_input: bool) -> None:
    model = Fills(of_input).eval()
    converted = antialias(model, example_inputs=X)
    assert [d.site for d in converted.meta["blurify"].rewritten] == ["b", "pool"]
    assert verify(model, converted, X).ok


def test_a_program_of_one_size_for_two_axes_is_read_and_written(tmp_path: Path) -> None:
    side = torch.export.Dim("side", min=32, max=512)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)).eval()
    sizes = ({0: torch.export.Dim("batch"), 2: side, 3: side},)
    torch.export.save(torch.export.export(model, (X.repeat(2, 1, 1, 1),), dynamic_shapes=sizes), tmp_path / "a.pt2")
    read, signature = read_program(tmp_path / "a.pt2")
    converted = antialias(read, example_inputs=signature.inputs.args)
    save_program(converted, tmp_path / "b.pt2", signature)
    again = torch.export.load(tmp_path / "b.pt2")
    assert sorted(str(bound.upper) for bound in again.range_constraints.values()) == ["512", "int_oo"]
    x = torch.randn(3, 3, 48, 48)
    assert torch.allclose(again.module()(x), converted(x), atol=1e-6)


@pytest.mark.parametrize(
    "formula",
    [
        "Pow(Symbol('s0'), Integer(2))",
        "Add(Pow(FloorDiv(Symbol('s0'), Integer(4)), Integer(2)), Integer(8))",
        "(s0 + 1)**2",
    ],
)
def test_powers_of_sizes_are_taken(formula: str) -> None:
    assert _has_small_powers(formula)


@pytest.mark.parametrize(
    "formula",
    [
        "Pow(Integer(9), Integer(99))",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Pow(Pow(Pow(Integer(9), Integer(9)), Integer(9)), Integer(9))",
        "Pow(Integer(9), Integer(9999), Integer(2))",
        "(((9)**9)**9)**9",
        "Pow(9, 9*Integer(2))",
        ")Pow(2, Integer(2))(",
    ],
)
def test_endless_powers_are_not(formula: str) -> None:
    assert not _has_small_powers(formula)
