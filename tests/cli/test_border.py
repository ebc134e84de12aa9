"""The border: whatever goes wrong inside ends as one sentence and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from blurify.cli import group, session

ARCH = "timm:test_resnet"


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(session, "open_model", fail)


def test_an_unexpected_failure_is_one_sentence_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, RuntimeError("the\n moon"))
    result = run("plan", ARCH)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: an unexpected failure (RuntimeError: the moon); "
        "please report it with what the same command prints with --debug.\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "plan", ARCH], ["plan", ARCH, "--debug"]])
def test_debug_shows_where(run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    _failing(monkeypatch, RuntimeError("the moon"))
    assert isinstance(run(*arguments).exception, RuntimeError)


def test_debug_by_environment(run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, RuntimeError("the moon"))
    monkeypatch.setenv("BLURIFY_DEBUG", "1")
    assert isinstance(run("plan", ARCH).exception, RuntimeError)


def test_an_interruption_is_quiet(run, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, KeyboardInterrupt())
    result = run("plan", ARCH)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; nothing was written.\n"


def test_a_terminal_of_few_characters_is_no_reason_to_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blurify", "\u2603.pt"]
    environment = dict(os.environ, PYTHONIOENCODING="latin-1")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: There is no file ?.pt; check the name.\n"


def test_warnings_are_one_line_each_and_said_once() -> None:
    @click.group(cls=group.Border, default="go")
    def cli() -> None:
        pass

    @cli.command()
    def go() -> None:
        for _ in range(2):
            warnings.warn("mind\nthe gap", UserWarning, stacklevel=1)
        warnings.warn("someone else's business", DeprecationWarning, stacklevel=1)

    assert CliRunner().invoke(cli, ["go"]).stderr == "warning: mind the gap\n"


@pytest.mark.parametrize("before", [[], ["--filt-size", "3"], ["convert"], ["plan"]])
def test_two_dashes_let_a_file_begin_with_one(run, before: list[str]) -> None:
    result = run(*before, "--", "-net.pt")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no file -net.pt; check the name.\n"
