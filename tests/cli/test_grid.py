"""Where nobody chose a filter and an output's positions would move, `convert` and `plan` take an odd one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

DENSE = "timm:test_resnet?features_only=true"


@pytest.mark.parametrize(
    ("model", "how"),
    [("timm:test_efficientnet?features_only=true", "3 taps"), (DENSE, "3 taps on a centered grid")],
)
def test_an_odd_filter_where_the_grid_would_move(run, model: str, how: str) -> None:
    result = run("plan", model)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"Note: filters have {how}, since with 4 the sampling grid of an output would move")
    assert "grid of" not in result.stdout
    assert {line.split()[3] for line in result.stdout.splitlines() if "rewritten, blur" in line} == {"3"}


def test_a_given_size_is_obeyed_and_the_move_told(run) -> None:
    result = run("plan", DENSE, "--filt-size", "4")
    assert "Note: the sampling grid moves, of output[1] by 1 input pixels, " in result.stderr
    assert "use an odd filter (filt_size=3), or grid='centered' (--grid centered)." in result.stderr
    assert "grid of output[1]: moved +1 and +1 input pixels" in result.stdout


def test_centered_is_asked_for(run) -> None:
    result = run("plan", DENSE, "--grid", "centered", "--json")
    assert result.stderr == ""
    plan = json.loads(result.stdout)
    assert all(abs(by) < 1 for output in plan["outputs"] for by in output["pixels"])
    assert {decision.get("side") for decision in plan["decisions"] if decision["kind"] == "conv"} == {None, "both"}


def test_the_output_is_named_by_the_filter(run, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=0, global_pool=""), tmp_path / "net.pt")
    result = run("net.pt", "--no-verify")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "net.blur3.pt").exists()
    assert run("net.pt", "--no-verify").exit_code != 0  # never over another file


def test_classifiers_keep_the_default(run) -> None:
    result = run("plan", "timm:test_resnet")
    assert result.stderr == ""
    assert "grid" not in result.stdout


def test_a_move_of_one_pixel_is_told_and_the_usual_filter_taken(run, tmp_path: Path) -> None:
    network = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, 2, 1) for _ in range(2)))
    torch.save(network, tmp_path / "net.pt")
    result = run("plan", "net.pt", "--input-size", "3,32,32")
    assert "the sampling grid moves, of output by 1 input pixels" in result.stderr
    assert {line.split()[3] for line in result.stdout.splitlines() if "rewritten, blur" in line} == {"4"}
