"""The results on disk: a JSON object a line, appended when its run is done; runs that are there are not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.effect.experiment import Recipe, Run
from benchmarks.timing import environment
from blurify.zoo.ledger import append_line, cut_broken_line, read_lines

Line = dict[str, Any]


def read(path: Path) -> dict[Run, Line]:
    """The lines by run."""
    return {_run(line): line for line in read_lines(path)}


def append(path: Path, run: Run, figures: dict[str, list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_broken_line(path)
    append_line(path, run.key() | figures | {"environment": environment()})


def _run(line: Line) -> Run:
    return Run(Recipe(**line["recipe"]), line["network"], line["taps"], line["seed"])
