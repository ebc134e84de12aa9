"""Broken files by the hundred; `python -m benchmarks.fuzz` reads twelve thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fuzz


def test_some_hundred_mutations_of_every_kind_of_file(tmp_path: Path) -> None:
    results = list(fuzz.attempts(range(204), 1, tmp_path))
    assert [each for each in results if each[2] not in (fuzz.READ, fuzz.REFUSED)] == []
    assert {result for *_, result in results} == {fuzz.READ, fuzz.REFUSED}


def test_the_fuzzer_would_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(fuzz, "read_model", failing)
    assert fuzz.outcome(tmp_path) == "KeyError: \"'x'\""
