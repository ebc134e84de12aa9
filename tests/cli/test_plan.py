"""`--partial`: the parts that can be traced of a model that cannot be traced whole."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from blurify import load
from blurify.planning.plan import plan_of
from tests.cli.conftest import Run

ARCH = "tests.core.test_partial:detector"
SIZE = ("--input-size", "3,64,64")


def test_the_refusal_of_the_whole_names_the_option(run: Run) -> None:
    result = run("plan", ARCH, *SIZE)
    assert result.exit_code == 1
    assert "'backbone' for one, with partial=True (--partial)." in result.stderr
    assert "Traceback" not in result.stderr


def test_the_plan_says_what_is_converted_and_what_is_left(run: Run) -> None:
    result = run("plan", ARCH, *SIZE, "--partial")
    assert result.exit_code == 0, result.stderr
    assert "converted in parts: backbone (Sequential), neck.1 (Block)" in result.stdout
    assert "left as it is: head (Head): Head cannot be traced, at " in result.stdout
    parts = json.loads(run("plan", ARCH, *SIZE, "--partial", "--json").stdout)["parts"]
    assert [part["path"] for part in parts if not part["reason"]] == ["backbone", "neck.1"]


def test_what_is_converted_in_parts_is_written_and_read(run: Run, tmp_path: Path) -> None:
    result = run(ARCH, *SIZE, "--partial", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["proofs"]["ok"]
    assert len(said["plan"]["parts"]) == 3
    model = load(tmp_path / said["written"], allow=[ARCH])
    made = plan_of(model)
    assert made is not None
    assert [d.site for d in made.rewritten] == ["backbone.1.conv", "backbone.2", "neck.1.conv"]
    assert model(torch.zeros(1, 3, 64, 64)).keys() == {"scores", "width"}
