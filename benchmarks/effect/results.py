"""The results on disk: a JSON object a line, appended when its run is done; runs that are there are not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.effect.experiment import Recipe, Run
from benchmarks.timing import environment
from benchmarks.zoo.ledger import parsed

Line = dict[str, Any]


def read(path: Path) -> dict[Run, Line]:
    """The lines by run."""
    if not path.exists():
        return {}
    lines = [parsed(line) for line in path.read_text().splitlines()]
    return {_run(line): line for line in lines if line}


def append(path: Path, run: Run, figures: dict[str, list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        # What a run that was killed left of its line must not spoil this one.
        file.seek(0)
        cut_off = not (file.read() or "\n").endswith("\n")
        file.write("\n" * cut_off + json.dumps(run.key() | figures | {"environment": environment()}) + "\n")


def _run(line: Line) -> Run:
    return Run(Recipe(**line["recipe"]), line["network"], line["taps"], line["seed"])
