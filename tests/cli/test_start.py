"""Starting: help answers at once and imports no torch, in every way of asking."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from blurify._version import __version__

# Everything that is slow to import or that a help text has no use for.
_HEAVY = ("torch", "timm", "torchvision", "numpy", "rich", "matplotlib", "pebble")

_PROBE = """
import sys
{extra}
from blurify.cli import main
sys.argv = ["blurify", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


def _heavy_imports(arguments: list[str], extra: str = "") -> str:
    code = _PROBE.format(arguments=arguments, heavy=_HEAVY, extra=extra)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["convert", "--help"],
        ["plan", "--help"],
        ["zoo", "--help"],
        ["demo", "--help"],
        ["--version"],
        [],
        ["m.pt", "--nope"],
    ],
    ids=" ".join,
)
def test_imports_nothing_heavy(arguments: list[str]) -> None:
    assert _heavy_imports(arguments) == "HEAVY []"


def test_the_test_above_can_fail() -> None:
    assert _heavy_imports(["--help"], extra="import torch").startswith("HEAVY ['torch'")


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"]], ids=" ".join)
def test_answers_within_half_a_second(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "blurify", *arguments]

    def seconds() -> float:
        """Return the processor time of a start, which other work on the machine hardly changes."""
        start = os.times()
        subprocess.run(command, capture_output=True, check=True)
        end = os.times()
        return end.children_user - start.children_user + end.children_system - start.children_system

    assert min(seconds() for _ in range(5)) < 0.5


def test_version_and_help_say_what_they_should() -> None:
    def output(*arguments: str) -> str:
        return subprocess.run([sys.executable, "-m", "blurify", *arguments], capture_output=True, text=True).stdout

    assert output("--version") == f"blurify {__version__}\n"
    assert all(name in output("--help") for name in ("convert*", "plan", "demo"))
    options = ("--filt-size", "--pad-type", "--stem", "--include", "--exclude", "--arch", "--allow", "--input-size")
    assert all(name in output("plan", "--help") for name in (*options, "--json", "--pretrained"))
    assert all(name in output("convert", "-h") for name in (*options, "--output", "--no-verify", "--force"))
