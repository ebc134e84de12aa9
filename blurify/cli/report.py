"""Print the results of commands: the site table, the cost, the proofs, the written file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blurify.planning.decision import Decision, explanation, filter_text, parts_table, sizes
from blurify.planning.plan import Plan, grid_lines
from blurify.sites import Action

if TYPE_CHECKING:
    from blurify.files import Format
    from blurify.measure.cost import Cost

# A pipe or file has no width; wide enough that no site's name is ever cut.
_PIPE_WIDTH = 10_000

_COLUMNS = ("site", "kind", "stride", "filter", "what is done")


class Saying:
    """Print a command's output: lines as it runs, or one JSON value at its end.

    >>> saying = Saying(as_json=True)
    >>> saying.line("wrote net.pt", written="net.pt")
    >>> saying.end()
    {
     "written": "net.pt"
    }
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.content: dict[str, Any] = {}

    def line(self, text: str, **content: Any) -> None:
        """Say a line now, or keep what it says for the end."""
        self.content |= content
        if not self.as_json:
            click.echo(text)

    def plan(self, plan: Plan) -> None:
        """Return the same of a plan and its table."""
        self.content["plan"] = json.loads(plan.to_json())
        if not self.as_json:
            print_plan(plan)

    def end(self) -> None:
        """Say what was kept."""
        if self.as_json:
            click.echo(json.dumps(self.content, indent=1))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Show on a terminal what is going on; say nothing to a pipe.

    >>> with stage("reading"):
    ...     pass
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{name} ..."):
        yield


def print_remarks(remarks: list[str]) -> None:
    """Print remarks on the plan, apart from what a program may read.

    >>> print_remarks(["hooks of 'layer1' are not carried over."])
    """
    for remark in remarks:
        click.echo(f"Note: {remark}", err=True)


def print_plan(plan: Plan) -> None:
    """Print the table of sites, whole, to a terminal or a pipe.

    >>> print_plan(plan)
    """
    if not plan.decisions:
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH, color_system=None)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=not console.is_terminal)
    for decision in plan.decisions:
        table.add_row(*_row(decision), style="" if decision.action is Action.REWRITE else "dim")
    with console.capture() as captured:
        console.print(table)
    for line in (*captured.get().splitlines(), *grid_lines(plan)):
        click.echo(line.rstrip())
    for line in parts_table(plan.parts):
        click.echo(line)


def _row(decision: Decision) -> list[Text]:
    action = "rewritten, blur" if decision.action is Action.REWRITE else "kept:"
    cells = (
        decision.site,
        decision.kind,
        sizes(decision.stride) if decision.stride else "",
        filter_text(decision),
        f"{action} {explanation(decision)}",
    )
    return [Text(str(cell)) for cell in cells]


def summary(plan: Plan) -> str:
    """Return one line: how many sites are rewritten and how many kept.

    >>> summary(plan)
    '8 of 9 sites are rewritten, 1 kept'
    """
    rewritten, kept = len(plan.rewritten), len(plan.kept)
    return f"{rewritten} of {rewritten + kept} sites are rewritten, {kept} kept"


def arithmetic(before: Cost, after: Cost, batch: int = 1) -> str:
    """Return the price of one forward, before and after.

    >>> arithmetic(before, after)
    'arithmetic 1.814 -> 2.342 GMAC (+29.1 %) for one input of 3x224x224'
    """
    size = "x".join(str(number) for number in before.size)
    change = f" ({after.macs / before.macs - 1:+.1%})".replace("%", " %") if before.macs else ""
    inputs = "one input" if batch == 1 else f"a batch of {batch} inputs"
    return f"arithmetic {_giga(before.macs)} -> {_giga(after.macs)} GMAC{change} for {inputs} of {size}"


def written(path: Path, form: Format) -> str:
    """Return where the result is and how to read it.

    >>> written(Path("net.blur4.pt"), FORMATS["native"])
    'wrote net.blur4.pt (recipe and weights; read it with blurify.load)'
    """
    return f"wrote {path} ({form.description})"


def _giga(count: int) -> str:
    return f"{count / 1e9:.3f}" if count >= 1e8 else f"{count / 1e9:.3g}"
