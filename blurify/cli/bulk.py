"""What `blurify zoo` shows while many models are converted, and how Ctrl-C ends it: once, gently; twice, at once."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from blurify.cli import tally
from blurify.zoo import folder as folders
from blurify.zoo import pool
from blurify.zoo.cluster import runner as ray_runner
from blurify.zoo.running import convert_all, plan_all
from blurify.zoo.settings import FAILED, LARGE, Limits, Record, Settings
from blurify.zoo.watching import Watcher


class Lines:
    """One plain line for every model, for a pipe or a file."""

    def __init__(self) -> None:
        self.stage, self.total, self.done, self.since = "", 0, 0, time.monotonic()

    def begin(self, stage: str, total: int) -> None:
        """Start counting anew."""
        self.stage, self.total, self.done, self.since = stage, total, 0, time.monotonic()
        if total:
            click.echo(f"{stage} {total} models")

    def started(self, name: str) -> None:
        """Say nothing yet."""

    def ended(self, name: str, record: Record) -> None:
        """Say what became of it; a model that was merely weighed is not worth a line."""
        self.done += 1
        if self.stage != "weighing" or record.get("status") == FAILED:
            click.echo(f"{self.done}/{self.total} {time.monotonic() - self.since:.0f}s {name}: {tally.outcome(record)}")


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
        """Start the bar anew."""
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
        """The bar, the counts, and one line for every worker."""
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

    def rate(self) -> str:
        """Models, seconds, and models an hour."""
        seconds = self.last - self.since
        return f"{self.done} in {seconds:.0f} s, which is {3600 * self.done / seconds:.0f} models an hour"


@contextmanager
def _watched() -> Iterator[tuple[Lines | Display, Callable[[], bool]]]:
    """Who is told, and whether Ctrl-C was pressed."""
    console = Console(stderr=True)
    asked: list[int] = []

    def stop(*_: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(1)
        click.echo("finishing the models that are under way; Ctrl-C again stops at once", err=True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        if console.is_terminal:
            display = Display(console)
            with display.live:
                yield display, lambda: bool(asked)
        else:
            yield Lines(), lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def convert(
    names: list[str],
    settings: Settings,
    where: str,
    limits: Limits,
    state: Path | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
    most_parameters: int | None = None,
    push: str | None = None,
) -> bool | None:
    """Convert and say what came out; false if something that was asked for is not there, None if it was interrupted.

    >>> convert(["timm:resnet18"], Settings(), "converted", Limits())
    True
    """
    runner = pool.run_all if cluster is None else ray_runner(cluster)
    try:
        with _watched() as (watcher, stopping):
            clock = Clock(watcher)
            result = convert_all(
                names,
                settings,
                where,
                state=state,
                limits=limits,
                most_parameters=most_parameters,
                push=push,
                retry_failed=retry_failed,
                watcher=clock,
                stopping=stopping,
                runner=runner,
            )
    except KeyboardInterrupt:
        click.echo("stopped; run the same again to go on from here", err=True)
        return None
    _print(tally.summary(result.records))
    _print(tally.pushed(result.pushes))
    if clock.done:
        click.echo(clock.rate())
    if result.done_before:
        click.echo(f"{result.done_before} of them were there already and are whole")
    click.echo(f"see {(state or Path(where)) / 'index.html'}")
    if result.left:
        click.echo(f"stopped with {len(result.left)} models left; run the same again to go on from here", err=True)
        return None
    return not any(map(tally.falls_short, [*result.records.values(), *result.pushes.values()]))


def dry_run(names: list[str], settings: Settings, limits: Limits, most_parameters: int | None = None) -> bool | None:
    """Plan and say what would be done; false if a model cannot be planned, None if it was interrupted.

    >>> dry_run(["timm:resnet18"], Settings(), Limits())
    True
    """
    begun = time.monotonic()
    try:
        with _watched() as (watcher, stopping):
            records = plan_all(names, settings, limits, watcher, stopping, most_parameters)
    except KeyboardInterrupt:
        return None
    interrupted = len(records) < len(names)
    records = {name: record for name, record in records.items() if record["status"] != LARGE}
    _print(tally.summary(records))
    parameters = sum(record.get("parameters", 0) for record in records.values())
    click.echo(
        f"planned in {time.monotonic() - begun:.0f} s; {parameters / 1e6:.0f} million parameters, "
        f"about {4 * parameters / 1e9:.1f} GB in files; nothing was written"
    )
    return None if interrupted else not any(map(tally.falls_short, records.values()))


def status(folder: Path) -> None:
    """Print what a folder holds.

    >>> status(Path("converted"))
    """
    state = folders.inspect(folder)
    settings = ", ".join(f"{key} {folders.said(value)}" for key, value in tally.telling(state.settings).items())
    click.echo(f"{state.output}: {settings}")
    _print(tally.summary(state.ledger.models))
    left = [name for name in state.ledger.asked if name not in state.ledger.models]
    if left:
        click.echo(f"{len(left)} left: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}")
    click.echo(f"process {state.process} is at work" if state.process else "no run is under way")


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)
