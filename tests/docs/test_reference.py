"""The pages name all there is: commands, options, public names, reasons, modules, files."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

import blurify
from blurify.sites import Reason
from tests.docs.pages import DOCS, PAGES, README, ROOT, blocks, name

_LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def hook(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, DOCS / "hooks" / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


commands = hook("commands.py")
COMMANDS = dict(commands.commands())


def section(of: str) -> str:
    found = [part for part in commands.reference().split("## ") if part.startswith(f"`{of}`\n")]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_and_option_has_help_and_a_place_in_the_docs(typed: str) -> None:
    command = COMMANDS[typed]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{typed} {parameter.opts} has no help"
            assert all(option in section(typed) for option in (*parameter.opts, *parameter.secondary_opts))
        else:
            assert parameter.make_metavar(click.Context(command)) in section(typed)


def test_the_page_of_commands_asks_for_the_reference() -> None:
    page = (DOCS / "cli.md").read_text()
    assert commands.MARK in page
    assert commands.on_page_markdown(page).endswith("\n```\n")
    assert commands.on_page_markdown("another page") == "another page"


def test_examples_of_docstrings_are_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    # The fencing is plain text; what it is hung into comes with the docs extra, which tests do not need.
    monkeypatch.setitem(sys.modules, "griffe", SimpleNamespace(Extension=object, Object=object))
    text = "One line.\n\n>>> f()  # doctest: +ELLIPSIS\n1...\n\nMore."
    assert hook("examples.py").fenced(text) == "One line.\n\n```pycon\n>>> f()\n1...\n```\n\nMore."


@pytest.mark.parametrize("public", sorted(set(blurify.__all__) - {"__version__"}))
def test_every_public_name_is_in_the_reference(public: str) -> None:
    home = getattr(blurify, public).__module__
    page = (DOCS / "api.md").read_text()
    assert f"::: {home}.{public}\n" in page or f"::: {home}\n" in page


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained(reason: Reason) -> None:
    assert f"`{reason}`" in (DOCS / "how" / "rules.md").read_text()


def test_every_module_has_a_layer() -> None:
    page = (DOCS / "contributing.md").read_text()
    modules = {module.name for module in pkgutil.iter_modules(blurify.__path__)} - {"__main__", "_version"}
    assert {module for module in modules if f"`{module}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_set_up_is_two_commands_each_alone() -> None:
    first, second = (block.text for block in blocks(README, "sh")[:2])
    for block, last in ((first, "blurify demo"), (second, "pytest")):
        steps = block.strip().split(" && ")
        assert steps[0] == "python3 -m venv .venv"
        assert steps[1] == ". .venv/bin/activate"
        assert steps[2].startswith("pip install -e ")
        assert steps[-1] == last
        assert "\n" not in block.strip()


def test_ci_runs_the_readme_and_not_a_copy_of_it() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert all(block.text.strip() not in script for block in blocks(README, "sh"))
