"""Ratios from one interleaved run, printed as a table and kept as JSON lines with what they depend on."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import blurify

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "timm", "antialiased-cnns", "kornia")


def medians(
    actions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each action, all of them once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    order = list(actions.items())
    for _ in range(rounds):
        # Whoever comes first finds cold memory, so each does in turn.
        order.append(order.pop(0))
        for name, action in order:
            begin = clock()
            action()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def environment() -> dict[str, str | int]:
    """The machine and the libraries."""
    found: dict[str, str | int] = {"blurify": blurify.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found | {"machine": platform.machine(), "threads": torch.get_num_threads()}


def record(benchmark: str, rows: list[dict[str, object]]) -> Path:
    """Append the rows to the benchmark's file."""
    path = RESULTS / f"{benchmark}.jsonl"
    path.parent.mkdir(exist_ok=True)
    where = environment()
    with path.open("a") as file:
        file.writelines(json.dumps(row | {"environment": where}) + "\n" for row in rows)
    return path


def table(rows: list[dict[str, object]]) -> str:
    """The rows under the names of all their columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
