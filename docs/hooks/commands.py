"""The reference of the commands, made from the commands themselves whenever the docs are built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from blurify.cli.group import cli

MARK = "<!-- commands -->"
WIDTH = 100


def reference() -> str:
    """Return Markdown: every command's own help text, under a heading of its own."""
    return "\n\n".join(_section(name, command) for name, command in commands())


def commands(name: str = "blurify", command: click.Command = cli) -> Iterator[tuple[str, click.Command]]:
    """Every command with what a user types to reach it, a group before what is in it."""
    yield name, command
    if isinstance(command, click.Group):
        for below, each in command.commands.items():
            yield from commands(f"{name} {below}", each)


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return f"## `{name}`\n\n```text\n{command.get_help(context).rstrip()}\n```"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it (called by mkdocs for every page)."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown
