"""`blurify demo`: what the command line adds to the demonstration itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Path | None]]:
    """Stand in for the demonstration, which has its own tests, and note what it was asked for."""
    calls: list[tuple[int, Path | None]] = []

    class Result(str):
        def as_json(self) -> str:
            return '{"figures": 1}'

    def run_demo(filt_size: int = 4, picture: Path | None = None) -> str:
        calls.append((filt_size, picture))
        return Result("before and after")

    module = ModuleType("blurify.demo")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "blurify.demo", module)
    return calls


def test_prints_the_result(run, asked) -> None:
    result = run("demo")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "before and after\n", "")
    assert asked == [(4, None)]


def test_draws_on_request(run, asked) -> None:
    assert run("demo", "--filt-size", 3, "--picture", "out.png").stdout == "before and after\ndrew out.png\n"
    assert asked == [(3, Path("out.png"))]


def test_a_size_of_nothing_is_a_usage_error(run, asked) -> None:
    assert run("demo", "--filt-size", 0).exit_code == 2
    assert asked == []


def test_prints_json_and_nothing_else(run, asked) -> None:
    assert run("demo", "--picture", "out.png", "--json").stdout == '{"figures": 1}\n'
    assert asked == [(4, Path("out.png"))]
