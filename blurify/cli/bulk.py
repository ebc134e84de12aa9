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

from blurify.cli.report import Saying
from blurify.zoo import folder as folders
from blurify.zoo import pool
from blurify.zoo.cluster import runner as ray_runner
from blurify.zoo.running import convert_all, plan_all
from blurify.zoo.settings import FAILED, Limits, Record, Settings

# Failures that are printed at the end; the index has them all.
_SHOWN = 20


class Lines:
    """One plain line for every model, for a pipe or a file; beside the output where that is for a program."""

    def __init__(self, beside: bool = False) -> None:
        self.beside = beside
        self.stage, self.total, self.done, self.since = "", 0, 0, time.monotonic()

    def begin(self, stage: str, total: int) -> None:
        """Start counting anew."""
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
            click.echo(f"{self.done}/{self.total} {seconds:.0f}s {name}: {outcome(record)}", err=self.beside)


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
            self.live.console.print(Text(f"{name}: {outcome(record)}", "red"))

    def render(self) -> Group:
        """The bar, the counts, and one line for every worker."""
        now = time.monotonic()
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        lines = [Text(f"  {name} ({now - begun:.0f} s)", "dim") for name, begun in list(self.running.items())]
        return Group(self.progress, Text(counts), *lines)


def outcome(record: Record) -> str:
    """What became of a model, in a line.

    >>> outcome({"status": "failed", "kind": "timeout", "error": "was not done within 5 s"})
    'failed (timeout): was not done within 5 s'
    """
    if record.get("status") == FAILED:
        return f"failed ({record['kind']}): {record['error']}"
    sites = record["sites"]
    seconds = f", {record['seconds']:.1f} s" if "seconds" in record else ""
    return f"{record['status']}, {sites['rewrite']} sites rewritten and {sites['keep']} kept{seconds}"


@contextmanager
def _watched(beside: bool) -> Iterator[tuple[Lines | Display, Callable[[], bool]]]:
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
            yield Lines(beside), lambda: bool(asked)
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
    as_json: bool = False,
) -> bool | None:
    """Convert and say what came out; false if a model failed, None if it was interrupted.

    >>> convert(["timm:resnet18"], Settings(), "converted", Limits())
    True
    """
    runner = pool.run_all if cluster is None else ray_runner(cluster)
    try:
        with _watched(as_json) as (watcher, stopping):
            result = convert_all(
                names,
                settings,
                where,
                state=state,
                limits=limits,
                retry_failed=retry_failed,
                watcher=watcher,
                stopping=stopping,
                runner=runner,
            )
    except KeyboardInterrupt:
        click.echo("stopped; run the same again to go on from here", err=True)
        return None
    saying, index = Saying(as_json), str((state or Path(where)) / "index.html")
    _say_summary(saying, result.records)
    if result.done_before:
        saying.line(f"{result.done_before} of them were there already and are whole")
    saying.line(f"see {index}", done_before=result.done_before, left=result.left, index=index)
    saying.end()
    if result.left:
        click.echo(f"stopped with {len(result.left)} models left; run the same again to go on from here", err=True)
        return None
    return result.counts[FAILED] == 0


def dry_run(names: list[str], settings: Settings, limits: Limits, as_json: bool = False) -> bool | None:
    """Plan and say what would be done; false if a model cannot be planned, None if it was interrupted.

    >>> dry_run(["timm:resnet18"], Settings(), Limits())
    True
    """
    begun = time.monotonic()
    try:
        with _watched(as_json) as (watcher, stopping):
            records = plan_all(names, settings, limits, watcher, stopping)
    except KeyboardInterrupt:
        return None
    saying, seconds = Saying(as_json), time.monotonic() - begun
    _say_summary(saying, records)
    parameters = sum(record.get("parameters", 0) for record in records.values())
    saying.line(
        f"planned in {seconds:.0f} s; {parameters / 1e6:.0f} million parameters, "
        f"about {4 * parameters / 1e9:.1f} GB in files; nothing was written",
        seconds=seconds,
        parameters=parameters,
        bytes=4 * parameters,
    )
    saying.end()
    if len(records) < len(names):
        return None
    return all(record["status"] != FAILED for record in records.values())


def status(folder: Path, as_json: bool = False) -> None:
    """Print what a folder holds.

    >>> status(Path("converted"))
    """
    state = folders.inspect(folder)
    settings = ", ".join(f"{key} {folders.said(value)}" for key, value in state.settings.items())
    saying = Saying(as_json)
    saying.line(f"{state.output}: {settings}", output=state.output, settings=state.settings)
    _say_summary(saying, state.ledger.models)
    left = [name for name in state.ledger.asked if name not in state.ledger.models]
    if left:
        saying.line(f"{len(left)} left: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}")
    at_work = f"process {state.process} is at work" if state.process else "no run is under way"
    saying.line(at_work, left=left, process=state.process)
    saying.end()


def _say_summary(saying: Saying, records: dict[str, Record]) -> None:
    counts = Counter(record["status"] for record in records.values())
    said = ", ".join(f"{n} {s}" for s, n in sorted(counts.items())) or "none yet"
    saying.line(f"{len(records)} models: {said}", counts=counts, models=records)
    failed = [(name, record) for name, record in records.items() if record["status"] == FAILED]
    for name, record in failed[:_SHOWN]:
        saying.line(f"  {name}: {outcome(record)}")
    if len(failed) > _SHOWN:
        saying.line(f"  and {len(failed) - _SHOWN} more, in the index")
