"""What the README, the tour and the docstrings show is what happens."""

from __future__ import annotations

import doctest
import importlib
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import blurify
from blurify.cli.group import cli
from blurify.cli.zoo import zoo
from tests.docs.pages import DOCS, PAGES, README, blocks, name

MODULES = ["api", "filters", "layers", "planning.plan", "planning.spec", "verifying.proving", "tracing"]


def docstring_examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(f"blurify.{module}"))
    return [test for test in found if test.examples]


def failures(test: doctest.DocTest, flags: int = 0) -> str:
    """What doctest reports of the examples that fail; empty if none do."""
    report: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str) -> None:
    tests = docstring_examples(module)
    assert tests
    assert "".join(failures(test) for test in tests) == ""


def run_in_order(page: Path) -> str:
    """Run a page's blocks in one namespace: `python` is executed, `pycon` compared; return what fails."""
    names: dict[str, object] = {"__name__": "__main__"}
    parser = doctest.DocTestParser()
    reports = []
    for block in blocks(page, "python", "pycon"):
        if block.language == "python":
            exec(compile(block.text, page, "exec"), names)
            continue
        test = doctest.DocTest(parser.get_examples(block.text), names, name(page), str(page), 0, None)
        test.globs = names  # DocTest copies the names that it is given
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
        runner.run(test, out=reports.append, clear_globs=False)
    return "".join(reports)


RUN = [README, *(DOCS / f"{page}.md" for page in ("tour", "keep-class", "timm", "finetune", "how/architecture"))]


@pytest.mark.parametrize("page", [*RUN, pytest.param(DOCS / "pictures.md", marks=pytest.mark.slow)], ids=name)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert blocks(page, "python", "pycon")
    assert run_in_order(page) == ""


def test_the_tests_above_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    page.write_text("```python\nx = 1\n```\n\n```pycon\n>>> x\n2\n```\n")
    assert "Expected:\n    2\nGot:\n    1" in run_in_order(page)


def command_lines() -> list[str]:
    shown = [line for page in PAGES for block in blocks(page, "console") for line in block.text.splitlines()]
    return [line.removeprefix("$ ") for line in shown if line.startswith("$ blurify")]


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [command for command in cli.commands.values() if not isinstance(command, click.Group)]
    for command in (*commands, *zoo.commands.values()):
        monkeypatch.setattr(command, "callback", lambda **_: None)
    result = CliRunner().invoke(cli, shlex.split(line, comments=True)[1:], prog_name="blurify")
    assert result.exit_code == 0, result.output


def test_quoted_functions_are_those_of_the_package() -> None:
    quoted = [block.text for block in blocks(DOCS / "how" / "architecture.md", "text") if block.text.startswith("def ")]
    source = (Path(blurify.__file__).parent / "rules" / "lp_pool.py").read_text()
    assert quoted
    assert all(text in source for text in quoted)
