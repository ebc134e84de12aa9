from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blurify.zoo.running import Result, convert_all
from blurify.zoo.settings import GIGABYTE, Limits, Record, Settings
from blurify.zoo.storage import digest, place

Convert = Callable[..., Result]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Convert models by name into a folder of the test's own, two at a time."""

    def run(names: list[str], timeout: float = 120, memory: float = 8, jobs: int = 2, **options: object) -> Result:
        limits = Limits(jobs, timeout, int(memory * GIGABYTE))
        return convert_all(names, Settings(), str(tmp_path / "zoo"), limits=limits, **options)  # type: ignore[arg-type]

    return run


def model_records(folder: Path) -> list[Record]:
    """The records of attempts, in the order in which they were made."""
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "model" in record]


def assert_whole(folder: Path, names: list[str]) -> None:
    """Every model is there, each exactly once in ledger and index, with the files that its report says."""
    records = model_records(folder)
    assert sorted(record["model"] for record in records) == sorted(names)
    rows = (folder / "index.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(names)
    for record in records:
        own = folder / place(record["model"])
        report = json.loads((own / "report.json").read_text())
        assert record["status"] in ("converted", "kept"), record
        assert report["files"] == {p.name: digest(p) for p in own.iterdir() if p.name != "report.json"}
    assert list(folder.glob(".part-*")) == []
