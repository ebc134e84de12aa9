"""Who watches a bulk run: plain lines, a live display, and a clock."""

from __future__ import annotations

import time
from collections import Counter

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from blurify.cli import tally
from blurify.cli.report import Saying
from blurify.zoo.settings import FAILED, Record
from blurify.zoo.watching import Watcher


class Lines:
    """One plain line for every model, for a pipe or a file; next to the output where that is for a program."""

    def __init__(self, beside: bool = False) -> None:
        self.beside = beside
        self.stage, self.total, self.done, self.since = "", 0, 0, time.monotonic()

    def begin(self, stage: str, total: int) -> None:
        """Start counting again."""
        self.stage, self.total, self.done, self.since = stage, total, 0, time.monotonic()
        if total:
            click.echo(f"{stage} {total} models", err=self.beside)

    def started(self, name: str) -> None:
        """Say nothing yet."""

    def ended(self, name: str, record: Record) -> None:
        """Say what became of it; a model that was merely weighed is not worth a line."""
        self.done += 1
        if self.stage != "weighing" or record.get("status") == FAILED:
            seconds = time.monotonic() - self.since
            click.echo(f"{self.done}/{self.total} {seconds:.0f}s {name}: {tally.outcome(record)}", err=self.beside)


class Display:
    """Counts, rate, time left and what every worker is on, in place."""

    def __init__(self, console: Console) -> None:
        self.counts: Counter[str] = Counter()
        self.running: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True)
        self.bar = self.progress.add_task("", total=0, rate="")
        self.since = time.monotonic()

    def begin(self, stage: str, total: int) -> None:
        """Start the bar again."""
        self.progress.reset(self.bar, description=stage, total=total, rate="")
        self.counts.clear()
        self.since = time.monotonic()

    def started(self, name: str) -> None:
        """Show it among those that run."""
        self.running[name] = time.monotonic()

    def ended(self, name: str, record: Record) -> None:
        """Count it; a failure is said at once, above."""
        self.running.pop(name, None)
        self.counts[record.get("status", "weighed")] += 1
        rate = 3600 * self.counts.total() / (time.monotonic() - self.since)
        self.progress.update(self.bar, advance=1, rate=f"{rate:.0f} an hour")
        if record.get("status") == FAILED:
            self.live.console.print(Text(f"{name}: {tally.outcome(record)}", "red"))

    def render(self) -> Group:
        """Return the bar, the counts, and one line for every worker."""
        now = time.monotonic()
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        lines = [Text(f"  {name} ({now - begun:.0f} s)", "dim") for name, begun in list(self.running.items())]
        return Group(self.progress, Text(counts), *lines)


class Clock:
    """Tells another, and takes the time of converting."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher, self.converting, self.done, self.since, self.last = watcher, False, 0, 0.0, 0.0

    def begin(self, stage: str, total: int) -> None:
        """Start the clock where converting begins."""
        self.converting = stage == "converting"
        if self.converting:
            self.since = time.monotonic()
        self.watcher.begin(stage, total)

    def started(self, name: str) -> None:
        """Pass it on."""
        self.watcher.started(name)

    def ended(self, name: str, record: Record) -> None:
        """Count it."""
        if self.converting:
            self.done, self.last = self.done + 1, time.monotonic()
        self.watcher.ended(name, record)

    def say(self, saying: Saying) -> None:
        """Models, seconds, and models an hour."""
        if self.done:
            seconds = self.last - self.since
            rate = 3600 * self.done / seconds
            saying.line(f"{self.done} in {seconds:.0f} s, which is {rate:.0f} models an hour", models_per_hour=rate)
