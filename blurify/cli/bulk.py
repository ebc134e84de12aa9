"""Show the progress of `blurify zoo`; Ctrl-C ends it gently, a second one at once."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from blurify.cli import tally
from blurify.cli.report import Saying
from blurify.cli.showing import Clock, Display, Lines
from blurify.zoo import folder as folders
from blurify.zoo import pool
from blurify.zoo.cluster import runner as ray_runner
from blurify.zoo.running import convert_all, plan_all
from blurify.zoo.settings import LARGE, Limits, Record, Settings


@contextmanager
def _watched(beside: bool) -> Iterator[tuple[Lines | Display, Callable[[], bool]]]:
    """Who is told, and whether Ctrl-C was pressed."""
    console = Console(stderr=True)
    asked: list[int] = []

    def stop(*_: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(1)
        click.echo("finishing the models in progress; press Ctrl-C again to stop at once", err=True)

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
    most_parameters: int | None = None,
) -> bool | None:
    """Convert and say what came out; false if something that was asked for is not there, None if it was interrupted.

    >>> convert(["timm:resnet18"], Settings(), "converted", Limits())
    True
    """
    runner = pool.run_all if cluster is None else ray_runner(cluster)
    try:
        with _watched(as_json) as (watcher, stopping):
            clock = Clock(watcher)
            result = convert_all(
                names,
                settings,
                where,
                state=state,
                limits=limits,
                most_parameters=most_parameters,
                retry_failed=retry_failed,
                watcher=clock,
                stopping=stopping,
                runner=runner,
            )
    except KeyboardInterrupt:
        click.echo("stopped; run the same command again to continue", err=True)
        return None
    saying, index = Saying(as_json), str((state or Path(where)) / "index.html")
    _say_summary(saying, result.records)
    clock.say(saying)
    if result.done_before:
        saying.line(f"{result.done_before} of them were there already and are whole")
    saying.line(f"see {index}", done_before=result.done_before, left=result.left, index=index)
    saying.end()
    if result.left:
        click.echo(f"stopped with {len(result.left)} models left; run the same command again to continue", err=True)
        return None
    return not any(map(tally.falls_short, result.records.values()))


def dry_run(
    names: list[str],
    settings: Settings,
    limits: Limits,
    as_json: bool = False,
    most_parameters: int | None = None,
) -> bool | None:
    """Plan and say what would be done; false if a model cannot be planned, None if it was interrupted.

    >>> dry_run(["timm:resnet18"], Settings(), Limits())
    True
    """
    begun = time.monotonic()
    try:
        with _watched(as_json) as (watcher, stopping):
            records = plan_all(names, settings, limits, watcher, stopping, most_parameters)
    except KeyboardInterrupt:
        return None
    saying, seconds = Saying(as_json), time.monotonic() - begun
    interrupted = len(records) < len(names)
    records = {name: record for name, record in records.items() if record["status"] != LARGE}
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
    return None if interrupted else not any(map(tally.falls_short, records.values()))


def status(folder: Path, as_json: bool = False) -> None:
    """Print what a folder holds.

    >>> status(Path("converted"))
    """
    state = folders.inspect(folder)
    settings = ", ".join(f"{key} {folders.said(value)}" for key, value in tally.telling(state.settings).items())
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
    _say(saying, tally.summary(records), counts=counts, models=records)


def _say(saying: Saying, lines: list[str], **content: Any) -> None:
    saying.line("\n".join(lines), **content)
