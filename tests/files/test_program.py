"""A `.pt2` runs without blurify, on batches and sizes that it was not exported with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from blurify import antialias, verify
from blurify.errors import FileError
from blurify.files import FORMATS, SaveOptions
from blurify.files.program import read_program, save_program
from blurify.measure.cost import cost
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


@pytest.mark.parametrize(
    ("keep_class", "size"), [(False, (96, 96)), pytest.param(True, (99, 83), marks=pytest.mark.slow)]
)
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


class Two(nn.Module):
    """Takes and gives containers, and a batch that has a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2)

    def forward(self, pictures: dict[str, Tensor], scale: list[Tensor]) -> dict[str, object]:
        y = self.pool(self.conv(pictures["x"]).relu()) * scale[0]
        return {"y": y, "z": (pictures["z"] + 1,)}


def test_a_program_that_was_read_is_written_with_its_signature(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", max=16)
    example = ({"x": torch.randn(2, 3, 32, 32), "z": torch.zeros(2, 4)}, [torch.tensor(2.0)])
    sizes = {"pictures": {"x": {0: batch, 2: torch.export.Dim("h", min=8)}, "z": {0: batch}}, "scale": [None]}
    program = torch.export.export(Two().eval(), example, dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "two.pt2")
    model, signature = read_program(tmp_path / "two.pt2")
    assert list(model.state_dict()) == list(program.state_dict)
    converted = antialias(model, stem=True, example_inputs=signature.inputs.args)
    assert verify(model, converted, signature.inputs.args).ok
    save_program(converted, tmp_path / "model.pt2", signature)
    again = torch.export.load(tmp_path / "model.pt2")
    assert list(again.state_dict) == list(program.state_dict)
    assert all(torch.equal(again.state_dict[name], value) for name, value in program.state_dict.items())
    assert sorted(str(bound.upper) for bound in again.range_constraints.values()) == ["16", "int_oo"]
    other = ({"x": torch.randn(5, 3, 45, 32), "z": torch.zeros(5, 4)}, [torch.tensor(3.0)])
    with torch.no_grad():
        result, expected = again.module()(*other), converted(*other)
    assert result.keys() == {"y", "z"}
    assert relative_error(expected["y"], result["y"]) < 1e-5
    assert relative_error(model(*other)["y"].detach(), result["y"]) > 1e-3


class InTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.pool(self.norm(self.conv(x)).relu()), training=self.training)


def test_a_program_of_training_keeps_its_counts_and_its_chance(tmp_path: Path) -> None:
    program = torch.export.export(InTraining().train(), (torch.randn(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "net.pt2")
    model, signature = read_program(tmp_path / "net.pt2")
    cost(model, *signature.inputs.args)
    assert model.norm.num_batches_tracked == 0
    converted = antialias(model, example_inputs=signature.inputs.args)
    assert verify(model, converted, signature.inputs.args).ok
    _, row = FORMATS["pt2"].write_proved(converted, tmp_path / "out.pt2", SaveOptions(example=signature))
    assert row is not None
    assert row.state == "ok"
